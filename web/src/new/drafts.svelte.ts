// What was typed into the form and not sent yet, prompts of before, and templates: kept in this browser.
import { keep, recall } from "../lib/theme.svelte";

export interface Draft {
  prompt: string;
  name: string;
  repo: string;
  branch: string;
  agent: string;
  model: string;
  snapshot: string;
  policy: string;
  usd: string;
  hours: string;
  copies: number;
}
export interface Template {
  name: string;
  draft: Draft;
}

export const EMPTY: Draft = {
  prompt: "", name: "", repo: "", branch: "", agent: "claude", model: "", snapshot: "", policy: "", usd: "", hours: "", copies: 1,
};
const PROMPTS_MAX = 30;
const TEXT_MAX = 20_000; // a longer prompt is a draft, not history

function read<T>(key: string, empty: T): T {
  try {
    const found: unknown = JSON.parse(recall(key) ?? "null");
    return found && typeof found === "object" ? (Array.isArray(empty) ? (found as T) : { ...empty, ...(found as T) }) : empty;
  } catch {
    return empty;
  }
}

class Drafts {
  draft = $state<Draft>(read("thopter.draft", EMPTY));
  prompts = $state<string[]>(read<string[]>("thopter.prompts", []).filter((p) => typeof p === "string"));
  repos = $state<string[]>(read<string[]>("thopter.repos", []).filter((r) => typeof r === "string"));
  templates = $state<Template[]>(read<Template[]>("thopter.templates", []).filter((t) => t && typeof t.name === "string"));

  keepDraft(): void {
    keep("thopter.draft", JSON.stringify(this.draft));
  }
  /** It was sent: remember prompt and repository, begin with an empty prompt. */
  sent(): void {
    const { prompt, repo } = this.draft;
    if (prompt.length <= TEXT_MAX) this.prompts = [prompt, ...this.prompts.filter((p) => p !== prompt)].slice(0, PROMPTS_MAX);
    if (repo) this.repos = [repo, ...this.repos.filter((r) => r !== repo)].slice(0, PROMPTS_MAX);
    keep("thopter.prompts", JSON.stringify(this.prompts));
    keep("thopter.repos", JSON.stringify(this.repos));
    this.draft = { ...this.draft, prompt: "", name: "", copies: 1 };
    this.keepDraft();
  }
  saveTemplate(name: string): void {
    this.templates = [{ name, draft: { ...this.draft } }, ...this.templates.filter((t) => t.name !== name)];
    keep("thopter.templates", JSON.stringify(this.templates));
  }
  dropTemplate(name: string): void {
    this.templates = this.templates.filter((t) => t.name !== name);
    keep("thopter.templates", JSON.stringify(this.templates));
  }
  use(template: Template): void {
    this.draft = { ...EMPTY, ...template.draft };
    this.keepDraft();
  }
}

export const drafts = new Drafts();
