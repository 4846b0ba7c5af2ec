// A file of its own, since the page's Content-Security-Policy allows no inline script.
SwaggerUIBundle({
  url: "api/v1/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // Nothing leaves this gateway: without this the page shows a badge of a public validator.
  validatorUrl: null,
});
