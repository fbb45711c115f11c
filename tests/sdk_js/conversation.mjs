// The stock JavaScript SDK against a running edge; prints what it saw as one JSON object.
// Usage: node conversation.mjs <sdk package> <url of the edge>
const [sdk, apiUrl] = process.argv.slice(2);
const { Client } = await import(sdk);
const client = new Client({ apiUrl, apiKey: null });
const user = (text) => ({ messages: [{ role: "user", content: text }] });
const seen = {};

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}
const last = (parts, event) => parts.filter((part) => part.event === event).at(-1)?.data;

async function tools() {
  const thread = await client.threads.create({ metadata: { from: sdk } });
  let created;
  const parts = await collect(
    client.runs.stream(thread.thread_id, "agent", {
      input: user('tool=current_time({"zone":"Asia/Seoul"}) tokens=9'),
      streamMode: ["values", "updates", "messages-tuple"],
      onRunCreated: (run) => (created = run),
    }),
  );
  const text = {};
  for (const part of parts) {
    if (part.event !== "messages") continue;
    const [message] = part.data;
    text[message.id] = (text[message.id] ?? "") + message.content;
  }
  const values = last(parts, "values");
  const state = await client.threads.getState(thread.thread_id);
  const history = await client.threads.getHistory(thread.thread_id);
  const found = await client.threads.search({ metadata: { from: sdk } });
  const again = await collect(
    client.runs.joinStream(thread.thread_id, created.run_id, {
      streamMode: ["values", "messages-tuple"],
      lastEventId: "-1",
    }),
  );
  seen.tools = {
    types: values.messages.map((message) => message.type),
    streamed: text[values.messages.at(-1).id] === values.messages.at(-1).content,
    state: JSON.stringify(state.values) === JSON.stringify(values),
    history: history.length,
    found: found.map((one) => one.thread_id === thread.thread_id),
    again: JSON.stringify(last(again, "values")) === JSON.stringify(values),
    run: (await client.runs.get(thread.thread_id, created.run_id)).status,
    runs: (await client.runs.list(thread.thread_id)).length,
  };
}

async function interrupts() {
  const thread = await client.threads.create();
  const asked = await client.runs.wait(thread.thread_id, "approval", { input: user("hi") });
  const answered = await collect(
    client.runs.stream(thread.thread_id, "approval", {
      command: { resume: { [asked.__interrupt__[0].id]: true } },
      streamMode: ["values", "custom"],
    }),
  );
  seen.interrupt = {
    question: asked.__interrupt__[0].value.question,
    answer: last(answered, "values").messages.at(-1).content,
    custom: last(answered, "custom"),
  };
}

async function cancels() {
  const thread = await client.threads.create();
  const run = await client.runs.create(thread.thread_id, "agent", {
    input: user("tokens=2000 rate=50"),
  });
  const parts = [];
  for await (const part of client.runs.joinStream(thread.thread_id, run.run_id, {
    streamMode: ["messages-tuple", "values"],
  })) {
    parts.push(part);
    if (parts.length === 12) await client.runs.cancel(thread.thread_id, run.run_id, true);
  }
  const values = last(parts, "values");
  seen.cancel = {
    status: (await client.runs.get(thread.thread_id, run.run_id)).status,
    kept: values.messages.at(-1).content.length > 0,
    joined:
      JSON.stringify(await client.runs.join(thread.thread_id, run.run_id)) ===
      JSON.stringify(values),
  };
}

async function refused() {
  try {
    await client.runs.create("no-such-thread", "agent", { input: user("hi") });
  } catch (error) {
    seen.refused = error.status;
  }
}

// what takes too long says where it stood
setTimeout(() => {
  console.error("too slow", JSON.stringify(seen));
  process.exit(1);
}, 45_000).unref();

await tools();
await interrupts();
await cancels();
await refused();
console.log(JSON.stringify(seen));
process.exit(0);
