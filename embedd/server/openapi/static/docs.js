// The page of all routes: Swagger UI, with a key for its requests.

const STORED_KEY = "embedd-key"; // the same as of the page at /ui; gone when the tab is closed

const field = document.querySelector("#key");
field.value = sessionStorage.getItem(STORED_KEY) ?? "";
field.addEventListener("input", () => sessionStorage.setItem(STORED_KEY, field.value.trim()));
document.querySelector("#key-form").addEventListener("submit", (event) => event.preventDefault());

SwaggerUIBundle({
  url: new URL("../openapi.json", import.meta.url).href,
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    const key = field.value.trim();
    if (key) request.headers.Authorization = `Bearer ${key}`;
    return request;
  },
});
