// xterm.js under a content security policy without inline styles: its style sheets become constructed ones,
// and its style attributes go through the object model, both of which the policy allows.
import { Terminal, type ITerminalOptions } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";

const create = document.createElement.bind(document);

function sheetElement(): HTMLElement {
  const element = create("span");
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  element.hidden = true;
  Object.defineProperty(element, "textContent", { set: (css: string) => sheet.replaceSync(css), get: () => "" });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

function span(): HTMLElement {
  const element = create("span");
  element.setAttribute = (name: string, value: string) => {
    if (name === "style") element.style.cssText = value;
    else Element.prototype.setAttribute.call(element, name, value);
  };
  return element;
}

// Part of it asks the window's document and not the one it was given, so the sheets are caught there.
document.createElement = ((tag: string, options?: ElementCreationOptions) =>
  tag === "style" ? sheetElement() : create(tag, options)) as typeof document.createElement;

const forTerminals = new Proxy(document, {
  get(target, key) {
    if (key === "createElement") return (tag: string) => (tag === "span" ? span() : document.createElement(tag));
    const found: unknown = Reflect.get(target, key);
    return typeof found === "function" ? (found as (...a: unknown[]) => unknown).bind(target) : found;
  },
});

/** A terminal that keeps the page's policy. */
export function terminal(options: ITerminalOptions): Terminal {
  return new Terminal({ ...options, documentOverride: forTerminals });
}
