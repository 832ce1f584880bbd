import { greeting } from "./greeting.js";

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

// Greets whoever the query names: GET /{{name}}/?name=Ada
async function handle(request) {
  const name = new URL(request.url).searchParams.get("name") ?? "world";
  console.log(`greeting ${name}`);
  return new Response(greeting(name), { headers: { "content-type": "text/plain; charset=utf-8" } });
}
