// Light or dark: as the system says, or as this person chose (theme.js applies it before the first paint).

export type Theme = "system" | "light" | "dark";

function stored(): Theme {
  const found = recall("thopter.theme");
  return found === "light" || found === "dark" ? found : "system";
}

/** Read from this browser's storage; null where there is none or it is refused. */
export function recall(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** Keep in this browser's storage (null removes). False: it could not be kept. */
export function keep(key: string, value: string | null): boolean {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

class ThemeChoice {
  chosen = $state<Theme>(stored());
  set(theme: Theme): void {
    this.chosen = theme;
    keep("thopter.theme", theme === "system" ? null : theme);
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
  }
  /** The next of the three. */
  turn(): void {
    this.set(this.chosen === "system" ? "light" : this.chosen === "light" ? "dark" : "system");
  }
}

export const theme = new ThemeChoice();
