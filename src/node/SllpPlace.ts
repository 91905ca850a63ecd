/** Where the datagrams of a session leave from, and how large they may be there. */
import { readFileSync } from "node:fs"
import { BlockList, isIP, isIPv6 } from "node:net"
import { networkInterfaces } from "node:os"
import { baseDatagramBytes, largestDatagramBytes } from "../protocol/sllp/constants.ts"
import type { Address } from "../transport/Network.ts"

const loopback = /^(127\.|::1$)/
/** IP and UDP headers in front of the payload. */
const headerBytes = { 4: 28, 6: 48 } as const
const familyOf = (host: string): 4 | 6 => (isIPv6(host) ? 6 : 4)

/** The address that this host listens at, where datagrams to the other host can leave from it; else any. */
export const localHost = (remoteHost: string, listening: Address | undefined): string => {
  const six = isIPv6(remoteHost)
  if (loopback.test(remoteHost)) return six ? "::1" : "127.0.0.1"
  const own = listening?.host
  if (own !== undefined && isIP(own) === (six ? 6 : 4) && !loopback.test(own)) return own
  return six ? "::" : "0.0.0.0"
}

const mtuOf = (name: string): number | undefined => {
  try {
    return Number(readFileSync(`/sys/class/net/${name}/mtu`, "utf8"))
  } catch {
    // Only Linux tells it in a file.
    return undefined
  }
}

/**
 * UDP payload that the interface toward a host takes in one piece: the one whose network the host is in, or, behind a router, the
 * least of all; the base size where that is not known.
 */
export const interfaceDatagramBytes = (remoteHost: string): number => {
  const family = familyOf(remoteHost)
  const all = Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) =>
    addresses.filter(({ address }) => familyOf(address) === family).map(address => ({ name, ...address }))
  )
  const near = all.filter(({ address, cidr }) => {
    const network = new BlockList()
    const bits = Number(cidr?.split("/")[1] ?? (family === 6 ? 128 : 32))
    network.addSubnet(address, bits, family === 6 ? "ipv6" : "ipv4")
    return network.check(remoteHost.replace(/%.*/, ""), family === 6 ? "ipv6" : "ipv4")
  })
  const chosen = near.length > 0 ? near : all.filter(({ internal }) => !internal)
  const mtus = chosen.map(({ name }) => mtuOf(name)).filter(mtu => mtu !== undefined)
  if (mtus.length === 0) return baseDatagramBytes
  return Math.max(baseDatagramBytes, Math.min(largestDatagramBytes, ...mtus.map(mtu => mtu - headerBytes[family])))
}
