// The frame of the page: its parts, the models they share, and the key.

import { address, get, onMissingKey, readKey, storeAdminKey, storeKey } from "./api.js";
import { Images } from "./images.js";
import { Live } from "./live.js";
import { Models } from "./models.js";
import { Message } from "./parts.js";
import { Search } from "./search.js";
import { Try } from "./try.js";
import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/preact.js";

const PARTS = { models: "Models", try: "Try", search: "Search", live: "Live", images: "Images" };
const REFRESH = 5000; // milliseconds between two looks at the models in memory

const readPart = () => (location.hash.slice(1) in PARTS ? location.hash.slice(1) : "models");

function App() {
  const [part, setPart] = useState(readPart());
  const [store, setStore] = useState({ models: [], running: [], known: false, version: null, key: 0, manages: true });
  const [error, setError] = useState(null);
  const [missingKey, setMissingKey] = useState(null);
  const heading = useRef(null);

  const refresh = useCallback(async () => {
    try {
      const [tags, ps, access] = await Promise.all([get("api/tags"), get("api/ps"), get("ui/access")]);
      setStore((known) => ({ ...known, models: tags.models, running: ps.models, known: true, manages: access.manage }));
      setError(null);
    } catch (caught) {
      setError(caught);
    }
  }, []);
  useEffect(() => {
    // How programs send it comes after the colon. A 403 asks for an admin key beside the one that serves.
    onMissingKey((message, status) =>
      setMissingKey({ text: message.replace("unauthorized: ", "").split(":")[0], admin: status === 403 }));
    get("api/version").then((reply) => setStore((known) => ({ ...known, version: reply.embedd ?? reply.version })), () => {});
    refresh();
    const timer = setInterval(() => document.hidden || refresh(), REFRESH);
    const change = () => setPart(readPart());
    addEventListener("hashchange", change);
    return () => {
      clearInterval(timer);
      removeEventListener("hashchange", change);
    };
  }, []);
  const unlock = async (key) => {
    (missingKey.admin ? storeAdminKey : storeKey)(key);
    setMissingKey(null);
    await refresh();
    setStore((known) => ({ ...known, key: known.key + 1 }));
  };
  const able = (...capabilities) =>
    store.models.filter((model) => model.capabilities?.some((one) => capabilities.includes(one))).map((model) => model.name);
  const loaded = store.running.filter((one) => one.backend).map((one) => one.name);
  const shared = { models: able("embedding"), rerankers: able("rerank"), loaded, refresh };
  const views = {
    models: html`<${Models} store=${store} refresh=${refresh} askForKey=${setMissingKey} />`,
    try: html`<${Try} ...${shared} />`,
    search: html`<${Search} ...${shared} />`,
    live: html`<${Live} key=${store.key} />`,
    images: html`<${Images} ...${shared} models=${able("image")} />`,
  };
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      heading.current.focus();
    }}>Skip to the content</a>
    <header>
      <h1>embedd <small>${store.version}</small></h1>
      <nav aria-label="Parts of the page">${Object.entries(PARTS).map(
        ([name, title]) => html`<a key=${name} href=${`#${name}`} aria-current=${name === part ? "page" : undefined}>${title}</a>`,
      )}<a href=${address("docs")}>API</a></nav>
    </header>
    <main ref=${heading} tabindex="-1">
      ${missingKey && html`<${KeyForm} key=${missingKey.admin} reason=${missingKey} unlock=${unlock} dismiss=${() => setMissingKey(null)} />`}
      ${error && !missingKey && html`<${Message} error=${error} />`}
      ${views[part]}
    </main>`;
}

function KeyForm({ reason, unlock, dismiss }) {
  const [key, setKey] = useState(reason.admin ? "" : readKey());
  return html`<form class="key row" onSubmit=${(event) => {
      event.preventDefault();
      unlock(key.trim());
    }}>
      <label class="field grow"><span role="alert">The server asks for a key: ${reason.text}. It is kept until this tab is closed.</span>
        <input type="password" value=${key} autocomplete="off" onInput=${(event) => setKey(event.target.value)} /></label>
      <button type="submit" disabled=${!key.trim()}>Use this key</button>
      ${reason.admin && html`<button type="button" class="quiet" onClick=${dismiss}>Go on without it</button>`}
    </form>`;
}

render(html`<${App} />`, document.getElementById("app"));
