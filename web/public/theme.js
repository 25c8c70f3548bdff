// Before anything is painted: the colours that this person chose (none: as the system says).
(function () {
  try {
    var theme = localStorage.getItem("thopter.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (refused) {
    document.documentElement.dataset.storage = "none";
  }
})();
