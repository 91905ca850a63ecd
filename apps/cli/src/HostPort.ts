import { isIPv6 } from "node:net"
import * as Result from "effect/Result"

/** Where to listen or whom to dial. `host` carries no brackets; port 0 lets the system choose one. */
export interface HostPort {
  readonly host: string
  readonly port: number
}

const maxPort = 65_535
/** RFC 1123 names and dotted IPv4; what the resolver makes of a name is its own affair. */
const hostName = /^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?$/

/** `HOST:PORT` or `[IPV6]:PORT` (RFC 3986 brackets). Fails with what is expected, in words. */
export const parseHostPort = (text: string): Result.Result<HostPort, string> => {
  const bracketed = /^\[([^\]]*)\]:(\d{1,5})$/.exec(text)
  const plain = /^([^:[\]]*):(\d{1,5})$/.exec(text)
  const host = bracketed?.[1] ?? plain?.[1]
  const port = Number(bracketed?.[2] ?? plain?.[2])
  if (host === undefined) {
    return isIPv6(text) || text.split(":").length > 2
      ? Result.fail("an IPv6 address in brackets, such as [::1]:7000")
      : Result.fail("HOST:PORT, such as 0.0.0.0:7000")
  }
  if (port > maxPort) return Result.fail(`a port from 0 to ${maxPort}`)
  if (bracketed !== null && !isIPv6(host)) return Result.fail("an IPv6 address between the brackets")
  if (bracketed === null && !hostName.test(host)) {
    return Result.fail(host === "" ? "a host before the colon, such as 0.0.0.0:7000" : "a host name or an IP address")
  }
  return Result.succeed({ host, port })
}

/** The text that `parseHostPort` reads back to the same value. */
export const formatHostPort = ({ host, port }: HostPort): string =>
  isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
