// Models in the store and in memory: load, unload, delete, pull.

import { get, lines, post, remove } from "./api.js";
import { Message, Progress, ahead, bytes, plural, useAction } from "./parts.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

export function Models({ store, refresh, askForKey }) {
  return html`
    <section aria-labelledby="store-title">
      <h2 id="store-title">Models</h2>
      ${store.models.length ? html`<${Store} ...${{ store, refresh }} />` : store.known && html`<${Empty} />`}
    </section>
    ${store.manages ? html`<${Pull} store=${store} refresh=${refresh} />` : html`<section class="row">
      <p class="grow">Pulling and deleting models needs an admin key.</p>
      <button type="button" class="quiet" onClick=${() => askForKey({ text: "an admin key pulls and deletes models", admin: true })}>
        Use an admin key</button></section>`}
  `;
}

const Empty = () => html`<p>The store has no model yet. Pull one: <code>all-minilm</code> is small, quick
  and needs no download.</p>`;

const Store = ({ store, refresh }) => html`<div class="scroll models" tabindex="0" role="region" aria-label="Models in the store">
  <table>
    <thead><tr>
      <th scope="col">Name</th><th scope="col">Weights</th><th scope="col" class="number">File</th>
      <th scope="col">Computed by</th><th scope="col" class="number">Memory</th>
      <th scope="col">Unloads</th><th scope="col"><span class="hidden">Actions</span></th>
    </tr></thead>
    <tbody>${store.models.map(
      (model) => html`<${Row} key=${model.name} model=${model}
        running=${store.running.find((one) => one.name === model.name)} manages=${store.manages} refresh=${refresh} />`,
    )}</tbody>
  </table></div>`;

function Row({ model, running, manages, refresh }) {
  const dialog = useRef(null);
  const load = useAction(async (keepAlive) => {
    await post("api/generate", keepAlive === undefined
      ? { model: model.name, stream: false }
      : { model: model.name, stream: false, keep_alive: keepAlive });
    await refresh();
  });
  const deletion = useAction(async () => {
    dialog.current.close();
    await remove("api/delete", { model: model.name });
    await refresh();
  });
  const error = load.error ?? deletion.error;
  const details = model.details;
  return html`<tr>
      <th scope="row">${model.name}
        <div class="detail">${model.capabilities?.join(", ")}${
          details.embedding_length ? ` · ${details.embedding_length} dimensions` : ""
        }</div></th>
      <td>${details.quantization_level}<div class="detail">${details.family} ${details.parameter_size}</div></td>
      <td class="number">${bytes(model.size)}</td>
      <td>${running ? (running.backend ?? "loading …") : html`<span class="detail">not in memory</span>`}</td>
      <td class="number">${running ? bytes(running.size) : ""}</td>
      <td>${running ? ahead(running.expires_at) : ""}</td>
      <td><div class="actions">
        ${running
          ? html`<button type="button" class="quiet" disabled=${load.busy} onClick=${() => load.start(0)}
              aria-label=${`Unload ${model.name}`}>Unload</button>`
          : html`<button type="button" disabled=${load.busy} onClick=${() => load.start()}
              aria-label=${`Load ${model.name}`}>${load.busy ? "Loading …" : "Load"}</button>`}
        ${manages && html`<button type="button" class="quiet danger" disabled=${deletion.busy}
          onClick=${() => dialog.current.showModal()} aria-label=${`Delete ${model.name}`}>Delete</button>`}
        <dialog ref=${dialog} aria-label=${`Delete ${model.name}`}>
          <p>Delete <strong>${model.name}</strong> (${bytes(model.size)}) from the store?</p>
          <div class="actions">
            <button type="button" class="danger" onClick=${() => deletion.start()}>Delete it</button>
            <button type="button" class="quiet" autofocus onClick=${() => dialog.current.close()}>Keep it</button>
          </div>
        </dialog>
      </div></td>
    </tr>
    ${error && html`<tr><td colspan="7"><${Message} error=${error} /></td></tr>`}`;
}

function Pull({ store, refresh }) {
  const [catalogue, setCatalogue] = useState([]);
  const [name, setName] = useState("");
  const [step, setStep] = useState(null);
  const abort = useRef(null);
  useEffect(() => {
    get("ui/catalogue").then(setCatalogue, () => setCatalogue([]));
  }, [store.key]);

  const pull = useAction(async (wanted) => {
    abort.current = new AbortController();
    setStep({ status: "asking for the model" });
    try {
      for await (const line of lines("api/pull", { model: wanted }, abort.current.signal)) setStep(line);
      await refresh();
    } catch (error) {
      setStep(null);
      throw error;
    }
  });
  const word = name.toLowerCase();
  const found = catalogue.filter(
    (one) => one.name.includes(word) || one.description.toLowerCase().includes(word),
  );
  const exact = catalogue.some((one) => one.name === word.split(":")[0]);
  const start = (wanted) => {
    setName(wanted);
    pull.start(wanted);
  };
  return html`<section aria-labelledby="pull-title">
    <h2 id="pull-title">Pull a model</h2>
    <form class="row" onSubmit=${(event) => {
      event.preventDefault();
      if (name.trim()) start(name.trim());
    }}>
      <label class="field grow"><span>Name of the catalogue, or hf.co/USER/REPOSITORY</span>
        <input type="text" value=${name} spellcheck="false" autocomplete="off"
          placeholder="all-minilm" onInput=${(event) => setName(event.target.value)} /></label>
      <button type="submit" disabled=${pull.busy || !name.trim()}>Pull</button>
      ${pull.busy && html`<button type="button" class="quiet" onClick=${() => abort.current.abort()}>Stop</button>`}
    </form>
    ${step && html`<${Progress} label=${step.status}
      done=${step.status === "success" ? 1 : (step.completed ?? 0)}
      total=${step.status === "success" ? 1 : step.total} />`}
    <${Message} error=${pull.error} />
    <ul class="cards" aria-label="Catalogue">
      ${(exact ? catalogue : found).map((one) => html`<${Card} key=${one.name} model=${one} busy=${pull.busy}
        has=${store.models.some((model) => model.name.split(":")[0] === one.name)} start=${start} />`)}
    </ul>
    ${!exact && !found.length && catalogue.length > 0 &&
    html`<p class="detail">The catalogue has no such name. Repositories of the hub are pulled as
      <code>hf.co/USER/REPOSITORY</code>.</p>`}
  </section>`;
}

const Card = ({ model, busy, has, start }) => html`<li class="card">
  <div><strong>${model.name}</strong>${model.kind === "image" && html` <span class="tag">images</span>`}
    ${has && html` <span class="tag good">here</span>`}</div>
  <p class="detail">${model.description}</p>
  <p class="detail">${model.license} · ${plural(model.tags.length, "tag")}: ${model.tags.slice(0, 4).join(", ")}${
    model.tags.length > 4 ? " …" : ""
  }</p>
  <button type="button" class="quiet" disabled=${busy} onClick=${() => start(model.name)}
    aria-label=${`Pull ${model.name}`}>Pull</button>
</li>`;
