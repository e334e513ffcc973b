// The frame of the page: its parts, the models they share, and the key.

import { address, get, onMissingKey, readKey, storeKey } from "./api.js";
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
  const [store, setStore] = useState({ models: [], running: [], known: false, version: null, key: 0 });
  const [error, setError] = useState(null);
  const [missingKey, setMissingKey] = useState(null);
  const heading = useRef(null);

  const refresh = useCallback(async () => {
    try {
      const [tags, ps] = await Promise.all([get("api/tags"), get("api/ps")]);
      setStore((known) => ({ ...known, models: tags.models, running: ps.models, known: true }));
      setError(null);
    } catch (caught) {
      setError(caught);
    }
  }, []);
  useEffect(() => {
    onMissingKey(setMissingKey);
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
    storeKey(key);
    setMissingKey(null);
    await refresh();
    setStore((known) => ({ ...known, key: known.key + 1 }));
  };
  const able = (...capabilities) =>
    store.models.filter((model) => model.capabilities?.some((one) => capabilities.includes(one))).map((model) => model.name);
  const shared = { models: able("embedding"), rerankers: able("rerank") };
  const views = {
    models: html`<${Models} store=${store} refresh=${refresh} />`,
    try: html`<${Try} ...${shared} />`,
    search: html`<${Search} ...${shared} />`,
    live: html`<${Live} key=${store.key} />`,
    images: html`<${Images} models=${able("image")} />`,
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
      ${missingKey && html`<${KeyForm} reason=${missingKey} unlock=${unlock} />`}
      ${error && !missingKey && html`<${Message} error=${error} />`}
      ${views[part]}
    </main>`;
}

function KeyForm({ reason, unlock }) {
  const [key, setKey] = useState(readKey());
  return html`<form class="key row" onSubmit=${(event) => {
      event.preventDefault();
      unlock(key.trim());
    }}>
      <label class="field grow"><span role="alert">The server asks for a key: ${reason}. It is kept until this tab is closed.</span>
        <input type="password" value=${key} autocomplete="off" onInput=${(event) => setKey(event.target.value)} /></label>
      <button type="submit" disabled=${!key.trim()}>Use this key</button>
    </form>`;
}

render(html`<${App} />`, document.getElementById("app"));
