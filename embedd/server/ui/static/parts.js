// Parts that several views use: formats, messages, choices, copying.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";

export const bytes = (count) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [value, unit] = [count ?? 0, 0];
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
};

export const whole = (value) => Math.round(value ?? 0).toLocaleString("en");

export const milliseconds = (value) =>
  value == null ? "–" : value < 10 ? `${value.toFixed(1)} ms` : `${whole(value)} ms`;

export const ahead = (time) => {
  const seconds = Math.round((new Date(time) - Date.now()) / 1000);
  if (seconds > 10 * 365 * 86400) return "never";
  if (seconds <= 0) return "now";
  return seconds < 120 ? `in ${seconds} s` : `in ${Math.round(seconds / 60)} min`;
};

export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

/** An error or a remark; screen readers say it at once. */
export const Message = ({ error, children }) =>
  error || children
    ? html`<p class=${error ? "message error" : "message"} role=${error ? "alert" : "status"}>
        ${error?.message ?? children}
      </p>`
    : null;

/** A choice of `models`, and of none of them where `none` says what that is. */
export function ModelChoice({ models, value, onChange, label = "Model", none }) {
  return html`<label class="field">
    <span>${label}</span>
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${none && html`<option value="">${none}</option>`}
      ${models.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>
  </label>`;
}

/** For pages of a server without TLS on another machine: browsers give those no clipboard. */
function copyFromField(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyFromField(text);
    setDone(true);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>
    ${done ? "Copied" : label}
  </button>`;
}

const kept = new Map();

/** As `useState`, for what a part of the page still has when it is shown again. */
export function useKept(name, initial) {
  const [value, show] = useState(() => (kept.has(name) ? kept.get(name) : initial));
  const set = (next) => {
    kept.set(name, next);
    show(next);
  };
  return [value, set];
}

/** What a button says while `model` works: it is loaded first, if it is not in memory. */
export const working = (model, loaded, text) => (loaded.includes(model) ? text : "Loading the model …");

/** The model to work with: the chosen one, else one that is in memory. */
export const chooseModel = (models, chosen, loaded) =>
  models.includes(chosen) ? chosen : (models.find((name) => loaded.includes(name)) ?? models[0] ?? "");

/** Calls `run` and keeps whether it runs, and its error. */
export function useAction(run) {
  const [state, setState] = useState({ busy: false, error: null });
  const mounted = useRef(true);
  useEffect(
    () => () => {
      mounted.current = false;
    },
    [],
  );
  const start = async (...given) => {
    setState({ busy: true, error: null });
    let error = null;
    try {
      await run(...given);
    } catch (caught) {
      if (caught.name !== "AbortError") error = caught;
    }
    if (mounted.current) setState({ busy: false, error });
  };
  return { ...state, start };
}

/** A bar of what is done; without a total it only says that something happens. */
export const Progress = ({ label, done, total }) => html`<div class="progress">
  <div class="progress-label"><span>${label}</span>
    ${total ? html`<span>${Math.floor((100 * done) / total)} %</span>` : null}</div>
  <progress aria-label=${label} max=${total || 1} value=${total ? done : undefined}></progress>
</div>`;
