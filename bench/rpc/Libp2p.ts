import { Packr } from "msgpackr"
import type { Channel } from "../transport/Channel.ts"
import { libp2p as transport } from "../transport/Libp2p.mjs"
import { promiseLoad, type LoadOptions, type RpcSystem } from "./Caller.ts"

/**
 * Calls on one js-libp2p stream: a length before each message, msgpack in it, replies matched by id. One stream for all of them, as a
 * new one for each call costs two more round trips, and only 32 may be open.
 */
interface Message {
  readonly id: number
  readonly reply: LoadOptions["reply"]
  readonly bytes?: Uint8Array
  readonly count?: number
}

const packr = new Packr({ useRecords: false, copyBuffers: true })
const lengthBytes = 4

const send = (channel: Channel, message: Message): void => {
  const body = packr.pack(message)
  const whole = Buffer.allocUnsafe(lengthBytes + body.length)
  whole.writeUInt32BE(body.length)
  whole.set(body, lengthBytes)
  channel.send(whole)
}

/** Hands over whole messages. Parts are joined once a message is complete. */
const receive = (channel: Channel, onMessage: (message: Message) => void): void => {
  let parts: Array<Uint8Array> = []
  let held = 0
  let awaited = lengthBytes
  const onData = (chunk: Uint8Array): void => {
    parts.push(Uint8Array.from(chunk))
    held += chunk.length
    while (held >= awaited) {
      const all = Buffer.concat(parts, held)
      let at = 0
      while (held - at >= lengthBytes) {
        const end = at + lengthBytes + all.readUInt32BE(at)
        if (end > held) break
        onMessage(packr.unpack(all.subarray(at + lengthBytes, end)))
        at = end
      }
      const rest = all.subarray(at)
      parts = [rest]
      held = rest.length
      awaited = lengthBytes + (held < lengthBytes ? 0 : rest.readUInt32BE(0))
    }
  }
  channel.listen({ onData, onDrain: () => undefined })
}

export const libp2p: RpcSystem = {
  listen: () =>
    transport.listen(channel =>
      receive(channel, ({ id, reply, bytes = new Uint8Array(0) }) =>
        send(channel, reply === "echo" ? { id, reply, bytes } : { id, reply, count: bytes.length })
      )
    ),
  connect: async (_credentials, endpoint) => {
    const channel = await (await transport.connect(endpoint)).open()
    const waiting = new Map<number, (answer: unknown) => void>()
    let lastId = 0
    receive(channel, ({ id, reply, bytes, count }) => {
      waiting.get(id)?.(reply === "echo" ? bytes : count)
      waiting.delete(id)
    })
    const call = (reply: LoadOptions["reply"], bytes: Uint8Array) =>
      new Promise<unknown>(resolve => {
        const id = ++lastId
        waiting.set(id, resolve)
        send(channel, { id, reply, bytes })
      })
    return { load: options => promiseLoad(call, options) }
  }
}
