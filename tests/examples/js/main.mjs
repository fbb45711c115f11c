// A backend, an auditor and a UI in JavaScript, against a running turnstream.
//
//     node main.mjs BOOTSTRAP EDGE SCHEMAS VECTORS [PREFIX] [TENANT]
//
// It starts turns (JSON and Avro), answers a question, cancels a turn, reads results and events,
// chats over /ws, and prints what it saw as one JSON object.
import { createHash, randomUUID } from 'node:crypto'
import { Consumer, MessagesStreamModes, ProduceAcks, Producer } from '@platformatic/kafka'
import { checkVectors, Schemas } from './schemas.mjs'

const [bootstrap, edge, folder, vectors, prefix = '', tenant = 'default'] = process.argv.slice(2)
const schemas = new Schemas(folder)
const kafka = { bootstrapBrokers: [bootstrap], clientId: 'turnstream-example' }

async function follow (topic) {
  const consumer = new Consumer({ ...kafka, groupId: `example-${randomUUID()}` })
  const stream = await consumer.consume({
    topics: [topic], mode: MessagesStreamModes.EARLIEST, autocommit: false, sessionTimeout: 10_000, heartbeatInterval: 1_000
  })
  return { stream, close: () => consumer.close(true) }
}

const producer = new Producer(kafka)

// The key `tenant/thread_id` keeps the order of a thread's commands.
async function publish (threadId, value) {
  await producer.send({
    acks: ProduceAcks.ALL,
    messages: [{ topic: `${prefix}turns.${tenant}`, key: Buffer.from(`${tenant}/${threadId}`), value: Buffer.from(value) }]
  })
}

const publishJson = command => publish(command.thread_id, JSON.stringify(command))

// A result may come again: the first of a turn counts, but one with the code `dead_letter` is
// replaced by the turn's own, which follows where the dead letter was requeued.
const results = new Map()
const waiting = new Map()

async function readResults (stream) {
  for await (const message of stream) {
    const { name, fields } = schemas.decode(message.value)
    if (name !== 'TurnResult') continue
    const before = results.get(fields.correlation_id)
    if (before !== undefined && before.code !== 'dead_letter') continue
    results.set(fields.correlation_id, fields)
    waiting.get(fields.correlation_id)?.(fields)
  }
}

const result = id => new Promise(resolve => (results.has(id) ? resolve(results.get(id)) : waiting.set(id, resolve)))

// Reads turn-events from its beginning to the terminal event of the turn. Joining tokens is right
// for a turn of one attempt: a reader that must survive the death of a worker implements the fold
// (ARCHITECTURE.md, tests/vectors/fold.json).
async function readEvents (turnId) {
  const log = { records: 0, unknown: 0, types: {}, text: '', matches: false }
  const { stream, close } = await follow(`${prefix}turn-events`)
  for await (const message of stream) {
    log.records++
    const { name, fields } = schemas.decode(message.value)
    if (name === undefined) { log.unknown++; continue }
    log.types[name] = (log.types[name] ?? 0) + 1
    if (fields.turn_id !== turnId) continue
    if (name === 'TokensEmitted' && fields.kind === 'text') log.text += fields.text
    if (name === 'TurnCompleted') {
      log.matches = createHash('sha256').update(log.text).digest('hex') === fields.sha256
      break
    }
  }
  await close()
  return log
}

// Says one thing over /ws. With a token: new WebSocket(url, ['bearer', token]).
function chat (text) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${edge}/ws`)
    let tokens = ''
    let run
    socket.onopen = () => socket.send(JSON.stringify({ type: 'chat', id: 1, text }))
    socket.onclose = event => reject(new Error(`closed with ${event.code} ${event.reason}`))
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data)
      if (event.type === 'error') reject(new Error(`${event.code}: ${event.detail}`))
      if (event.type === 'accepted') run = event.run_id
      if (event.type === 'token') tokens += event.text
      if (event.type === 'rewind') tokens = '' // said again under other ids
      if (event.type === 'end' && (run === undefined || event.run_id === run)) {
        resolve({ tokens, end: event })
        socket.close()
      }
    }
  })
}

async function ask (command) {
  const correlationId = randomUUID()
  await publishJson({ ...command, correlation_id: correlationId })
  return result(correlationId)
}

const { stream, close } = await follow(`${prefix}turn-results.${tenant}`)
readResults(stream).catch(error => { console.error(error); process.exit(1) })

const byJson = await ask({ thread_id: 'js', text: 'tokens=5' })

const correlationId = randomUUID()
await publish('js', schemas.encode('StartTurn', { thread_id: 'js', text: 'tokens=5', correlation_id: correlationId }))
const byAvro = await result(correlationId)

const question = await ask({
  thread_id: 'js-asks', graph: 'approval', input: { messages: [{ role: 'user', content: 'How many?' }] }
})
const answered = await ask({
  type: 'ResumeTurn', thread_id: 'js-asks', graph: 'approval', answers: { [question.interrupts[0].id]: true }
})

const turnId = randomUUID()
const stopped = ask({ thread_id: 'js-stops', text: 'tokens=100000 rate=20', turn_id: turnId })
await publishJson({ type: 'CancelTurn', thread_id: 'js-stops', turn_id: turnId })

const seen = {
  vectors: checkVectors(schemas, vectors),
  json: byJson,
  avro: byAvro,
  question: question.status,
  answered,
  cancelled: (await stopped).status,
  log: await readEvents(byAvro.turn_id),
  socket: await chat('tokens=5')
}
await close()
await producer.close()
console.log(JSON.stringify(seen))
process.exit(0)
