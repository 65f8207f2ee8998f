import { ApiError, reference } from "../playground/api.js";
import { KeyForm } from "../playground/key.js";

const keyForm = new KeyForm(document.getElementById("key"), show);

/** Shows the API's document in Swagger UI; asks for a key where the server does. */
async function show() {
  try {
    const spec = await reference();
    const presets = [SwaggerUIBundle.presets.apis];
    SwaggerUIBundle({ spec, url: reference.address, presets, dom_id: "#reference", layout: "BaseLayout", validatorUrl: null, deepLinking: true });
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) keyForm.ask();
    else fail(error.message);
  }
}

function fail(words) {
  const fault = document.getElementById("fault");
  fault.textContent = words;
  fault.hidden = false;
}

show();
