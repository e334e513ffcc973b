// Pictures of a prompt, where the store has an image model.

import { post } from "./api.js";
import { Message, ModelChoice, chooseModel, useAction, useKept, working } from "./parts.js";
import { html } from "./vendor/preact.js";

const SIZES = ["256x256", "512x512", "512x768", "768x512", "1024x1024"];

export function Images({ models, loaded, refresh }) {
  const [prompt, setPrompt] = useKept("images.prompt", "");
  const [model, setModel] = useKept("images.model", "");
  const [size, setSize] = useKept("images.size", "");
  const [picture, setPicture] = useKept("images.picture", null);
  const chosen = chooseModel(models, model, loaded);
  const paint = useAction(async () => {
    const reply = await post("v1/images/generations", {
      model: chosen, prompt, ...(size && { size }), response_format: "b64_json", output_format: "png",
    });
    setPicture({ source: `data:image/png;base64,${reply.data[0].b64_json}`, prompt });
    await refresh();
  });
  if (!models.length)
    return html`<section><h2>Images</h2><p>The store has no image model. <code>sd-turbo</code> is the fastest: pull it
      in <a href="#models">Models</a>. Image models need the extra <code>embedd-server[images]</code>.</p></section>`;
  return html`<section aria-labelledby="images-title"><h2 id="images-title">Images</h2>
    <form onSubmit=${(event) => {
      event.preventDefault();
      paint.start();
    }}>
      <label class="field"><span>Prompt</span>
        <textarea rows="3" value=${prompt} onInput=${(event) => setPrompt(event.target.value)}></textarea></label>
      <div class="row">
        <${ModelChoice} models=${models} value=${chosen} onChange=${setModel} />
        <label class="field"><span>Size</span><select value=${size} onChange=${(event) => setSize(event.target.value)}>
          <option value="">the model's own</option>
          ${SIZES.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>
        <button type="submit" disabled=${paint.busy || !prompt.trim()}>${paint.busy ? working(chosen, loaded, "Painting, this can take minutes …") : "Paint"}</button>
      </div>
    </form>
    <${Message} error=${paint.error} />
    ${picture && html`<figure class="picture"><img src=${picture.source} alt=${picture.prompt} />
      <figcaption><a href=${picture.source} download="embedd.png">Save</a></figcaption></figure>`}
  </section>`;
}
