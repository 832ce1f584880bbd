// Turns Markdown into an HTML page: POST the text. Raw HTML in the text is shown, not passed on.

import MarkdownIt from "markdown-it";

const BODY_LIMIT_BYTES = 1 << 20;

// Without `html` it shows tags as text.
const markdown = new MarkdownIt({ linkify: true });

async function handle(request) {
  if (request.method !== "POST") {
    return new Response("POST Markdown here\n", { status: 405, headers: { allow: "POST" } });
  }
  const text = await request.text();
  if (text.length > BODY_LIMIT_BYTES) {
    return new Response(`the text is longer than ${BODY_LIMIT_BYTES} bytes\n`, { status: 413 });
  }
  return new Response(markdown.render(text), { headers: { "content-type": "text/html; charset=utf-8" } });
}

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));
