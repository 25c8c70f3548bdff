// Styles go into files of their own: the hub's CSP lets nothing inline through.
export default { compilerOptions: { css: "external", runes: true } };
