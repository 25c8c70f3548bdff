// Where the page begins.
import { mount } from "svelte";
import "./ui/tokens.css";
import "./ui/base.css";
import App from "./App.svelte";
import { session } from "./lib/session.svelte";
import { worker } from "./lib/worker.svelte";

const target = document.getElementById("app");
if (!target) throw new Error("the page has no place for the app");
mount(App, { target });
void session.begin();
void worker.begin();
