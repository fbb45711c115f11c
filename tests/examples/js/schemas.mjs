// Avro's single-object encoding: C3 01, eight bytes of fingerprint (little-endian), the record.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import avro from 'avsc'

const HEAD_BYTES = 10
const EMPTY = 0xc15d213aa4d7a795n // of CRC-64-AVRO, as the Avro specification gives it

const TABLE = Array.from({ length: 256 }, (_, index) => {
  let value = BigInt(index)
  for (let bit = 0; bit < 8; bit++) value = (value >> 1n) ^ (EMPTY & -(value & 1n))
  return value
})

function fingerprint (canonical) {
  let value = EMPTY
  for (const byte of Buffer.from(canonical)) value = (value >> 8n) ^ TABLE[Number((value ^ BigInt(byte)) & 0xffn)]
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}

export class Schemas {
  #byFingerprint = new Map()
  #byName = new Map()

  constructor (folder) {
    // those of earlier versions stand in a folder below
    for (const file of readdirSync(folder, { recursive: true }).filter(name => name.endsWith('.avsc'))) {
      const type = avro.Type.forSchema(JSON.parse(readFileSync(join(folder, file), 'utf8')))
      // the specification's order of attributes; avsc gives the rest of the canonical form
      const head = fingerprint(JSON.stringify(ordered(type.schema())))
      const known = { name: type.name.split('.').pop(), type, head: Buffer.concat([Buffer.from([0xc3, 1]), head]) }
      this.#byFingerprint.set(head.toString('hex'), known)
      if (!file.includes('/')) this.#byName.set(known.name, known)
    }
  }

  // Returns {name, fields}; {} for a record of a newer writer, which a reader skips.
  decode (data) {
    if (data[0] === 0x7b) { // a tenant may ask for its results in JSON
      const { type, ...fields } = JSON.parse(data.toString())
      return { name: type, fields }
    }
    if (data.length < HEAD_BYTES || data[0] !== 0xc3 || data[1] !== 1) throw new Error('no single-object encoding')
    const known = this.#byFingerprint.get(data.subarray(2, HEAD_BYTES).toString('hex'))
    return known ? { name: known.name, fields: known.type.fromBuffer(data.subarray(HEAD_BYTES)) } : {}
  }

  // Fields with a default may be left out.
  encode (name, fields) {
    const { type, head } = this.#byName.get(name)
    return Buffer.concat([head, type.toBuffer(type.clone(fields, { wrapUnions: false }))])
  }
}

const ORDER = ['name', 'type', 'fields', 'symbols', 'items', 'values', 'size']

function ordered (schema) {
  if (Array.isArray(schema)) return schema.map(ordered)
  if (schema === null || typeof schema !== 'object') return schema
  return Object.fromEntries(ORDER.filter(key => key in schema).map(key => [key, ordered(schema[key])]))
}

export function checkVectors (schemas, file) {
  const vectors = JSON.parse(readFileSync(file, 'utf8'))
  let same = 0
  for (const one of vectors) {
    const data = Buffer.from(one.bytes, 'base64')
    const { name, fields } = schemas.decode(data)
    const read = JSON.stringify(fields, (_, value) => (value?.type === 'Buffer' ? Buffer.from(value.data).toString('base64') : value))
    if (name === one.name && read === JSON.stringify(one.fields) && schemas.encode(name, fields).equals(data)) same++
  }
  return [same, vectors.length]
}
