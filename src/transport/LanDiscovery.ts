/** UDP broadcast of beacons (§2.8), and the hints that others' beacons give. */
import { Clock, Effect, Schedule, type Scope } from "effect"
import { createSocket, type Socket } from "node:dgram"
import { isIP } from "node:net"
import { networkInterfaces } from "node:os"
import { BeaconHints, encodeBeacon, openBeacon } from "../protocol/Beacon.ts"
import { equal } from "../protocol/Bytes.ts"
import { beaconIntervalMs, beaconNonceBytes, beaconPort } from "../protocol/constants.ts"
import { formatAddress, NetworkError, type Address } from "./Network.ts"

export interface LanDiscoveryOptions {
  /** 32 bytes that the hosts of one operator share. Whoever has it can make this host dial addresses, and no more. */
  readonly key: Uint8Array
  readonly randomBytes: (length: number) => Uint8Array
  /** Where this host can be dialled; undefined as long as it listens nowhere: then it only hears others. Asked before each beacon. */
  readonly listening: () => Address | undefined
  /** Somebody who has the key can be dialled here. At most `maxBeaconsPerSecond`; must not throw. */
  readonly onHint: (address: Address) => void
  /** The UDP port of all hosts of this network. Default `beaconPort`. */
  readonly port?: number
}

/** Interfaces that a beacon goes out on. */
const maxInterfaces = 16

const wildcards: ReadonlySet<string> = new Set(["0.0.0.0", "::"])

const octets = (ipv4: string): ReadonlyArray<number> => ipv4.split(".").map(Number)

/** The address that reaches all hosts of an interface's network. */
export const broadcastOf = (address: string, netmask: string): string => {
  const mask = octets(netmask)
  return octets(address)
    .map((octet, index) => octet | (~(mask[index] ?? 255) & 255))
    .join(".")
}

/** Where to send a beacon: to the network of each interface by which this host can be dialled. IPv6 has no broadcast. */
const destinations = ({ host }: Address): ReadonlyArray<string> => {
  const isEverywhere = wildcards.has(host) || isIP(host) === 0
  return Object.values(networkInterfaces())
    .flatMap(found => found ?? [])
    .filter(({ internal, family, address }) => !internal && family === "IPv4" && (isEverywhere || address === host))
    .slice(0, maxInterfaces)
    .map(({ address, netmask }) => broadcastOf(address, netmask))
}

const openSocket = (port: number): Effect.Effect<Socket, NetworkError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Socket, NetworkError>(resume => {
      // Several processes of one machine hear the same broadcasts.
      const socket = createSocket({ type: "udp4", reuseAddr: true })
      socket.once("error", error => {
        socket.close()
        const code = "code" in error && typeof error.code === "string" ? error.code : error.message
        resume(Effect.fail(new NetworkError({ operation: "listen", address: `0.0.0.0:${port} (UDP)`, code })))
      })
      socket.bind(port, () => {
        socket.removeAllListeners("error")
        // From here on an error concerns one datagram.
        socket.on("error", () => undefined)
        socket.setBroadcast(true)
        resume(Effect.succeed(socket))
      })
    }),
    socket => Effect.callback<void>(resume => void socket.close(() => resume(Effect.void)))
  )

/** Broadcasts where this host can be dialled and passes on what others broadcast, until the scope ends. Fails where the port is taken. */
export const lanDiscovery = Effect.fn("LanDiscovery.open")(function* (
  options: LanDiscoveryOptions
): Effect.fn.Return<void, NetworkError, Scope.Scope> {
  const { key, randomBytes, listening, onHint, port = beaconPort } = options
  const clock = yield* Clock.Clock
  const unixSeconds = () => clock.currentTimeMillisUnsafe() / 1000
  const hints = new BeaconHints()
  let ownNonce: Uint8Array | undefined
  const socket = yield* openSocket(port)

  socket.on("message", (datagram, { address: host }) => {
    const beacon = openBeacon(key, datagram, unixSeconds())
    if (beacon === undefined || (ownNonce !== undefined && equal(beacon.nonce, ownNonce))) return
    const address = { host, port: beacon.port }
    if (hints.take(formatAddress(address), clock.currentTimeMillisUnsafe())) onHint(address)
  })

  const announce = Effect.sync(() => {
    const address = listening()
    if (address === undefined) return
    const nonce = randomBytes(beaconNonceBytes)
    ownNonce = nonce
    const datagram = encodeBeacon(key, { nonce, port: address.port }, unixSeconds())
    // A network that is down now may be up in five seconds.
    for (const host of destinations(address)) socket.send(datagram, port, host, () => undefined)
  })
  yield* Effect.forkScoped(Effect.repeat(announce, Schedule.spaced(beaconIntervalMs)))
})
