import { connect } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { decodeInvite } from "../../src/protocol/Invite.ts"
import { inWorld, jobFile, reissued, type Command, type World } from "../support/system.ts"
import { trainedAlone } from "../support/systemReference.ts"
import { entropy, type Interference, type TamperProxy } from "../support/TamperProxy.ts"

/** In the star every gradient crosses the line that is looked at here. */
const star = jobFile("starClouds")
const alone = trainedAlone(star)

/** Bytes after which a connection is in the middle of the training: some kilobytes pass in each direction and step. */
const midTraining = 120_000

/** A coordinator and one worker that can reach it through the proxy only. */
const throughProxy = async (
  world: World,
  plan: ReadonlyArray<Interference>,
  interfere?: (what: Interference) => void,
  env: NodeJS.ProcessEnv = {}
): Promise<{ coordinator: Command; worker: Command; proxy: TamperProxy; token: string }> => {
  const coordinator = world.artifice(["coordinator", star, "--listen", "127.0.0.1:0"], { home: "coordinator" })
  const { address } = await coordinator.event("listening")
  const { token } = await coordinator.event("invite")
  const proxy = await world.proxy(address, plan, interfere)
  const worker = world.artifice(["worker", "--join", reissued(token, { addresses: [proxy.address] })], {
    home: "worker",
    env
  })
  return { coordinator, worker, proxy, token }
}

describe("On the wire between a worker and its coordinator", () => {
  it.each([
    { what: "flip", direction: "toServer", coordinatorSays: "BAD_MAC", workerSays: "TRUNCATED" },
    { what: "flip", direction: "toClient", coordinatorSays: "TRUNCATED", workerSays: "BAD_MAC" },
    { what: "cut", direction: "toServer", coordinatorSays: "TRUNCATED", workerSays: "TRUNCATED" }
  ] as const)(
    "one $what $direction ends the session with a typed error on both sides; the worker comes back and the weights are the same",
    ({ what, direction, coordinatorSays, workerSays }) =>
      inWorld(async world => {
        let deeds = 0
        const plan = [{ connection: 0, direction, after: midTraining, what }]
        const { coordinator, worker, proxy } = await throughProxy(world, plan, () => deeds++)
        const lost = await coordinator.event("member-lost")
        assert.match(lost.reason, new RegExp(`^${coordinatorSays}: .+`))
        const finished = await coordinator.finished()
        assert.strictEqual(finished.weightsSha256, (await alone).weightsSha256)
        assert.lengthOf(coordinator.all("member-lost"), 1)
        const { code, stderr } = await worker.ended
        assert.strictEqual(code, 0)
        assert.include(stderr.join("\n"), `${workerSays}: `)
        assert.strictEqual(deeds, 1)
        assert.lengthOf(proxy.connections, 2)
        assert.lengthOf(coordinator.all("member-joined"), 2)
      })()
  )

  it(
    "nothing can be told from chance: no name, no identity, no weight, no gradient, no label, no secret",
    inWorld(async world => {
      const { coordinator, worker, proxy, token } = await throughProxy(world, [])
      const finished = await coordinator.finished()
      assert.strictEqual((await worker.ended).code, 0)
      const { initialWeights, firstGradient, weightsSha256 } = await alone
      assert.strictEqual(finished.weightsSha256, weightsSha256)
      const [connection] = proxy.connections
      if (connection === undefined) return assert.fail("nothing passed the proxy")
      const invite = decodeInvite(token)
      const peers = [coordinator, worker].flatMap(command => command.all("process").map(({ peer }) => peer))
      assert.lengthOf(new Set(peers), 2)
      const secrets: ReadonlyArray<readonly [string, Buffer]> = [
        ["the job's name", Buffer.from("clouds")],
        ["a field of the fingerprint", Buffer.from("microBatch")],
        ["a call", Buffer.from("StartView")],
        ["the token", Buffer.from(token.slice(6, 30))],
        ["the token's secret", Buffer.from(invite.secret.subarray(0, 8))],
        ["the token's id", Buffer.from(invite.id.subarray(0, 8))],
        ["the weights' hash", Buffer.from(weightsSha256.slice(0, 16))],
        ...peers.flatMap(peer => [
          ["a PeerID in hex", Buffer.from(peer.slice(0, 16))] as const,
          ["a PeerID", Buffer.from(peer, "hex").subarray(0, 8)] as const
        ]),
        ...runsOf("initial weights", initialWeights),
        ...runsOf("the first gradient", firstGradient)
      ]
      assert.isAbove(secrets.length, 1_000)
      for (const direction of ["toServer", "toClient"] as const) {
        const bytes = connection[direction]
        assert.isAbove(bytes.length, 400_000)
        for (const [what, secret] of secrets) assert.isFalse(bytes.includes(secret), `${what} in clear, ${direction}`)
        assert.isAbove(entropy(bytes), 7.99)
      }
    })
  )

  it(
    "a stranger gets not one byte: for silence, garbage, another protocol or the recorded opening of a real handshake",
    inWorld(async world => {
      const { env, release } = world.hold()
      const { coordinator, worker, proxy } = await throughProxy(world, [], undefined, env)
      const { address } = await coordinator.event("listening")
      await coordinator.event("step")
      const opening = proxy.connections[0]?.toServer.subarray(0, 127) ?? Buffer.alloc(0)
      assert.strictEqual(opening.toString("latin1", 4, 8), "ARTF")
      const sent = [
        Buffer.alloc(0),
        Buffer.from("GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n"),
        Buffer.from(Array.from({ length: 3_000 }, (_, index) => (index * 197) & 0xff)),
        opening,
        opening.subarray(0, 60)
      ]
      const answers = await Promise.all(sent.map(bytes => answerTo(address, bytes)))
      assert.deepStrictEqual(
        answers.map(answer => answer.length),
        sent.map(() => 0)
      )
      release()
      assert.strictEqual((await coordinator.finished()).weightsSha256, (await alone).weightsSha256)
      assert.strictEqual((await worker.ended).code, 0)
    })
  )
})

/** Pieces of eight bytes, two floats, none of them zero: a zero is no secret. */
const runsOf = (what: string, bytes: Buffer): ReadonlyArray<readonly [string, Buffer]> =>
  Array.from({ length: Math.floor(bytes.length / 8) }, (_, index) => bytes.subarray(8 * index, 8 * index + 8))
    .filter(run => run.readUInt32LE(0) !== 0 && run.readUInt32LE(4) !== 0)
    .map(run => [what, run])

/** What comes back until the other side closes the connection, which it must. */
const answerTo = (address: string, bytes: Buffer): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const [host = "", port = ""] = address.split(":")
    const socket = connect({ host, port: Number(port) }, () => socket.write(bytes))
    const chunks: Array<Buffer> = []
    socket.on("data", chunk => chunks.push(chunk))
    socket.on("error", error => ("code" in error && error.code === "ECONNRESET" ? undefined : reject(error)))
    socket.on("close", () => resolve(Buffer.concat(chunks)))
  })
