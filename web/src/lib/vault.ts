// The session's key, where the page and its service worker both find it: IndexedDB of this origin.

const NAME = "thopter";

function open(): Promise<IDBDatabase> {
  return new Promise((done, failed) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("kept");
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error ?? new Error("no storage"));
  });
}

function ask<T>(mode: IDBTransactionMode, what: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  return open().then(
    (db) =>
      new Promise<T>((done, failed) => {
        const asked = what(db.transaction("kept", mode).objectStore("kept"));
        asked.onsuccess = () => {
          db.close();
          done(asked.result);
        };
        asked.onerror = () => {
          db.close();
          failed(asked.error ?? new Error("no storage"));
        };
      }),
  );
}

/** The session's key, "" when there is none. */
export async function readKey(): Promise<string> {
  const found = await ask("readonly", (store) => store.get("key") as IDBRequest<unknown>);
  return typeof found === "string" ? found : "";
}

/** Keep the key; "" forgets it. */
export async function writeKey(key: string): Promise<void> {
  await (key
    ? ask<IDBValidKey>("readwrite", (store) => store.put(key, "key"))
    : ask<undefined>("readwrite", (store) => store.delete("key")));
}
