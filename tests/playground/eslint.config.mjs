import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["**/swagger-ui/"] },
  js.configs.recommended,
  {
    files: ["**/src/streambed/server/**"],
    languageOptions: { globals: { ...globals.browser, SwaggerUIBundle: "readonly" } },
  },
  { files: ["**/tests/playground/**"], languageOptions: { globals: globals.node } },
];
