import { connect, createServer, type Server, type Socket } from "node:net"

/** `toServer`: from whoever dialled to whoever listens. */
export type Direction = "toServer" | "toClient"

/** A read of this size is mostly one record's ciphertext: its middle is no record's header. */
const largeReadBytes = 4_096

/** What is done to the n-th connection (from 0), in the middle of the first large read of one direction after that many bytes. */
export interface Interference {
  readonly connection: number
  readonly direction: Direction
  readonly after: number
  /** `flip` inverts one bit; `cut` ends the connection on both sides without a word. */
  readonly what: "flip" | "cut"
}

/** A connection that went through the proxy, with every byte of it as it was received. */
export interface Recorded {
  readonly toServer: Buffer
  readonly toClient: Buffer
}

class Relay {
  readonly #chunks = { toServer: new Array<Buffer>(), toClient: new Array<Buffer>() }
  readonly #passed = { toServer: 0, toClient: 0 }
  readonly #pending: Array<Interference>
  readonly #sockets: readonly [Socket, Socket]

  constructor(client: Socket, server: Socket, pending: Array<Interference>, done: (what: Interference) => void) {
    this.#pending = pending
    this.#sockets = [client, server]
    const pipe = (direction: Direction, from: Socket, to: Socket): void => {
      from.on("data", chunk => {
        this.#chunks[direction].push(chunk)
        const start = this.#passed[direction]
        this.#passed[direction] += chunk.length
        const out = Buffer.from(chunk)
        const due = this.#pending.findIndex(each => each.direction === direction && each.after < start)
        const interference = chunk.length < largeReadBytes ? undefined : this.#pending[due]
        if (interference !== undefined) {
          this.#pending.splice(due, 1)
          done(interference)
          const middle = chunk.length >> 1
          if (interference.what === "cut") {
            to.write(out.subarray(0, middle), () => this.cut())
            return
          }
          out[middle] = (out[middle] ?? 0) ^ 0x10
        }
        to.write(out)
      })
      from.on("error", () => to.destroy())
      from.on("close", () => to.end())
    }
    pipe("toServer", client, server)
    pipe("toClient", server, client)
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  get recorded(): Recorded {
    return { toServer: Buffer.concat(this.#chunks.toServer), toClient: Buffer.concat(this.#chunks.toClient) }
  }
}

/** A relay on loopback that records what passes, inverts bits of it and cuts connections: the network's attacker. */
export class TamperProxy {
  readonly #server: Server
  readonly #relays: Array<Relay> = []

  private constructor(server: Server) {
    this.#server = server
  }

  /** Listens on a port that the system chooses and relays to `target` (`host:port`); `interfere` is told each deed. */
  static start(
    target: string,
    plan: ReadonlyArray<Interference> = [],
    interfere: (what: Interference) => void = () => {}
  ): Promise<TamperProxy> {
    const [host = "", port = ""] = target.split(":")
    return new Promise((resolve, reject) => {
      const server = createServer(client => {
        const onward = connect({ host, port: Number(port) })
        const number = proxy.#relays.length
        const pending = plan.filter(({ connection }) => connection === number)
        proxy.#relays.push(new Relay(client, onward, pending, interfere))
      })
      const proxy = new TamperProxy(server)
      server.once("error", reject)
      server.listen({ host: "127.0.0.1", port: 0 }, () => resolve(proxy))
    })
  }

  get address(): string {
    const bound = this.#server.address()
    return typeof bound === "object" && bound !== null ? `127.0.0.1:${bound.port}` : ""
  }

  /** Every connection so far, in the order in which they were made. */
  get connections(): ReadonlyArray<Recorded> {
    return this.#relays.map(relay => relay.recorded)
  }

  async close(): Promise<void> {
    for (const relay of this.#relays) relay.cut()
    await new Promise(resolve => this.#server.close(resolve))
  }
}

/** Shannon entropy of the bytes, in bits per byte: 8 for what cannot be told from chance. */
export const entropy = (bytes: Uint8Array): number => {
  const counts = new Uint32Array(256)
  for (const byte of bytes) counts[byte] = (counts[byte] ?? 0) + 1
  let bits = 0
  for (const count of counts) if (count > 0) bits -= (count / bytes.length) * Math.log2(count / bytes.length)
  return bits
}
