/**
 * Where this machine listens for the peers it is paired with: those who know its address find it there again.
 */
import { type Address, formatAddress } from "artifice"
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { networkInterfaces } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { CliFailure } from "./CliFailure.ts"
import { type PeerStartOptions, peerOfHome } from "./Peer.ts"

const wildcards: ReadonlySet<string> = new Set(["0.0.0.0", "::"])
/** Addresses that a token names at most. */
const maxTokenAddresses = 8

/** Where others can dial this machine: what it listens on, or each of its own addresses where it listens on all. */
export const addressesOf = ({ host, port }: Address): ReadonlyArray<string> => {
  if (!wildcards.has(host)) return [formatAddress({ host, port })]
  const own = Object.values(networkInterfaces())
    .flatMap(found => found ?? [])
    .filter(({ internal, family, scopeid }) => !internal && (host === "::" || family === "IPv4") && !scopeid)
    .map(({ address }) => formatAddress({ host: address, port }))
  return own.length > 0 ? own.slice(0, maxTokenAddresses) : [formatAddress({ host: "127.0.0.1", port })]
}

const portFile = (home: string): string => join(home, "port")

/** The port that the system chose the last time; undefined where it never has, or where the file says something else. */
const savedPort = (home: string): Effect.Effect<number | undefined> =>
  Effect.promise(() =>
    readFile(portFile(home), "utf8").then(
      text => (/^\d{1,5}\n?$/.test(text) && Number(text) >= 1 && Number(text) <= 65_535 ? Number(text) : undefined),
      () => undefined
    )
  )

/** Best effort: a port that is not remembered costs no more than a new address. */
const savePort = (home: string, port: number): Effect.Effect<void> =>
  Effect.promise(() =>
    mkdir(home, { recursive: true, mode: 0o700 })
      .then(() => writeFile(portFile(home), `${port}\n`, { mode: 0o600 }))
      .catch(() => undefined)
  )

/** The peer of a home, listening. Port 0 is the port that the system chose the last time, or where that is taken a new one. */
export const listeningPeer = Effect.fnUntraced(function* (
  home: string,
  listen: Address,
  options: Omit<PeerStartOptions, "listen"> = {}
) {
  if (listen.port !== 0) return yield* peerOfHome(home, { ...options, listen })
  const outer = yield* Effect.scope
  /** What a failed start has opened is closed before the next one. */
  const start = (port: number) =>
    Effect.gen(function* () {
      const scope = yield* Scope.fork(outer)
      return yield* peerOfHome(home, { ...options, listen: { host: listen.host, port } }).pipe(
        Scope.provide(scope),
        Effect.onError(cause => Scope.close(scope, Exit.failCause(cause)))
      )
    })
  const port = yield* savedPort(home)
  const isTaken = (failure: CliFailure) => failure.code === "CANNOT_LISTEN" && port !== undefined
  const node = yield* Effect.catchIf(start(port ?? 0), isTaken, () => start(0))
  if (node.address !== undefined) yield* savePort(home, node.address.port)
  return node
})
