// A command in a box over a WebSocket, as the hub serves it: bytes both ways, sizes, and how it ended.
import { call, HubError } from "../lib/api/client";

export interface Ended {
  exit?: number;
  signal?: number;
  error?: { code: string; message: string; hint?: string };
}

export interface ExecOptions {
  argv: string[];
  pty?: { rows: number; cols: number };
  stdin?: boolean;
  onData: (data: Uint8Array) => void | Promise<void>;
}

const encoder = new TextEncoder();
const ROOM = 256 << 10; // bytes said and not taken: a paste of more is sent in turns

export class Exec {
  readonly done: Promise<Ended>;
  #socket: WebSocket;
  #waiting: Uint8Array<ArrayBuffer>[] = [];
  #out = 0;
  #size: [number, number] | null = null;
  #told = false;

  private constructor(socket: WebSocket, options: ExecOptions) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    this.done = new Promise((resolve) => {
      let last: Ended = { error: { code: "gone", message: "The connection to the hub broke off" } };
      socket.onopen = () => {
        socket.send(JSON.stringify({ argv: options.argv, pty: options.pty ?? null, stdin: options.stdin ?? true }));
      };
      socket.onmessage = (event) => {
        if (typeof event.data !== "string") return void options.onData(new Uint8Array(event.data as ArrayBuffer, 1));
        const said = JSON.parse(event.data) as Ended & { started?: object; taken?: number };
        if (said.started) {
          this.#told = true;
          if (this.#size) this.resize(...this.#size);
          this.#flush();
        } else if (said.taken !== undefined) {
          this.#out -= said.taken;
          this.#flush();
        } else last = said;
      };
      socket.onclose = () => resolve(last);
    });
  }

  /** Start one. Rejects with a HubError when the hub gives no ticket. */
  static async start(name: string, options: ExecOptions): Promise<Exec> {
    const path = `/v1/thopters/${encodeURIComponent(name)}/exec`;
    const { ticket } = await call("POST /v1/tickets", { body: { path } });
    const url = new URL(path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("ticket", ticket);
    return new Exec(new WebSocket(url), options);
  }

  write(text: string | Uint8Array): void {
    const data = typeof text === "string" ? encoder.encode(text) : text;
    for (let at = 0; at < data.length; at += 16384) {
      const part = data.subarray(at, at + 16384);
      const framed = new Uint8Array(part.length + 1); // byte 0: stdin
      framed.set(part, 1);
      this.#waiting.push(framed);
    }
    this.#flush();
  }

  resize(rows: number, cols: number): void {
    this.#size = [rows, cols];
    if (this.#told && this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ resize: [rows, cols] }));
  }

  end(): void {
    this.#socket.close();
  }

  #flush(): void {
    while (this.#told && this.#out < ROOM && this.#socket.readyState === WebSocket.OPEN) {
      const part = this.#waiting.shift();
      if (!part) return;
      this.#out += part.length - 1;
      this.#socket.send(part);
    }
  }
}

/** Run a short command and give its output; at most `most` bytes of it. */
export async function output(name: string, argv: string[], most = 65536): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  const running = await Exec.start(name, { argv, stdin: false, onData: (data) => void (text.length < most && (text += decoder.decode(data, { stream: true }))) });
  const ended = await running.done;
  if (ended.error) throw new HubError(0, ended.error.code, ended.error.message, ended.error.hint ?? "");
  if (ended.exit !== 0) throw new HubError(0, "exit", text.trim() || `it ended with ${ended.exit ?? `signal ${ended.signal}`}`);
  return text;
}
