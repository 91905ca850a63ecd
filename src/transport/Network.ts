import { Context, Schema, type Effect, type Scope } from "effect"
import type { PeerId } from "../protocol/Identity.ts"

/** A host and port. Ports are 1 to 65,535; 0 asks the system to choose when listening. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** Addresses of one host name that are of use. */
export const maxAddressesName = 8

/** `host:port`, IPv6 in brackets. */
export const formatAddress = ({ host, port }: Address): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`

/** Reads `host:port` or `[IPv6]:port`; undefined where it is neither. */
export const parseAddress = (text: string): Address | undefined => {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  return host === undefined || !(port <= 65_535) ? undefined : { host, port }
}

/** What a connection tells its one owner. Called outside of Effect, once per read. */
export interface ConnectionHandlers {
  /** `chunk` is valid until this returns: its memory is read into again. */
  readonly onData: (chunk: Uint8Array) => void
  /** A batch of bytes has been handed to the system: there is room for more. */
  readonly onDrain: () => void
  /** The connection is gone, in whatever way. Comes once, last. */
  readonly onClose: (reason: string) => void
}

/** A stream of bytes to another host. Knows nothing of what they mean. */
export interface Connection {
  readonly remote: Address
  /** The peer that passes the bytes on, where this is no connection of its own; `remote` is then no address. */
  readonly relay?: PeerId
  /** Takes the handlers; may be called again to hand the connection on. Nothing is read before the first call. */
  readonly handle: (handlers: ConnectionHandlers) => void
  /** Queues bytes, written as one batch; the arrays must not change until `onWritten`, which comes before `onDrain`, if it comes. */
  readonly write: (parts: ReadonlyArray<Uint8Array>, onWritten?: () => void) => void
  /** Bytes queued and not yet handed to the system. */
  readonly buffered: () => number
  readonly pause: () => void
  readonly resume: () => void
  /**
   * Writes what is queued, then closes. `drains`: and drops what still comes until the other side closes too, some seconds at most; else its
   * bytes that are under way could cost what was written last.
   */
  readonly end: (drains?: boolean) => void
  /** Closes at once; what is queued is lost. */
  readonly destroy: () => void
}

/**
 * An address could not be listened on or dialled, or a name not be looked up. `code` is the system's (`ECONNREFUSED`, `EADDRINUSE`,
 * `ENOTFOUND`, …) or `TIMEOUT`.
 */
export class NetworkError extends Schema.TaggedError<NetworkError>()("NetworkError", {
  operation: Schema.Literals(["listen", "dial", "look up"]),
  address: Schema.String,
  code: Schema.String
}) {
  override get message() {
    return `cannot ${this.operation} ${this.address}: ${this.code}`
  }
}

/**
 * Where bytes come from and go to. `NetworkTcp.layer` is the real one; a simulation provides another, and nothing above can tell.
 */
export class Network extends Context.Service<
  Network,
  {
    /** Listens until the scope ends; each accepted connection is handed to `accept`, who owns it. */
    readonly listen: (
      address: Address,
      accept: (connection: Connection) => void
    ) => Effect.Effect<Address, NetworkError, Scope.Scope>
    /** The addresses that a host name stands for, the best first, at most `maxAddressesName`; an address stands for itself. */
    readonly resolve: (host: string) => Effect.Effect<ReadonlyArray<string>, NetworkError>
    /** Opens a connection, which the caller owns. */
    readonly dial: (address: Address, timeoutMs: number) => Effect.Effect<Connection, NetworkError>
  }
>()("artifice/transport/Network") {}
