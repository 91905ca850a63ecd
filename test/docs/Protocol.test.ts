import { assert, describe, it } from "vitest"
import { adminKinds, maxAddresses, maxRosterMembers } from "../../src/node/AdminKinds.ts"
import { maxIntroducedPeers } from "../../src/node/IntroducedPeers.ts"
import { defaultTicketTtlMs } from "../../src/node/Introductions.ts"
import { maxRelays } from "../../src/node/Relay.ts"
import { maxOpenInvites } from "../../src/node/PeerTable.ts"
import { maxAddressesPeer } from "../../src/node/PeerRegistry.ts"
import { defaultInviteTtlMs } from "../../src/node/Invitations.ts"
import { defaultSllpLimits, maxSllpAssociationsSession } from "../../src/node/SllpRoom.ts"
import { defaultTensorLimits } from "../../src/node/TensorExchange.ts"
import { firstApplicationKind } from "../../src/protocol/AdminMessage.ts"
import * as constants from "../../src/protocol/constants.ts"
import { helloPrefix, messageTypes, modes } from "../../src/protocol/HandshakeMessages.ts"
import { encodeMsgpack, maxMsgpackDepth, maxMsgpackElements } from "../../src/protocol/Msgpack.ts"
import { streamClasses } from "../../src/protocol/Packets.ts"
import { codeName, wireCodes } from "../../src/protocol/ProtocolError.ts"
import { recordFlags, recordTypes } from "../../src/protocol/Records.ts"
import {
  decodeParameters,
  defaultParameters,
  encodeParameters,
  type SessionParameters
} from "../../src/protocol/SessionParameters.ts"
import {
  callBudgetBytes,
  defaultCallDeadlineMs,
  maxConcurrentCalls,
  maxPendingCallBytes,
  minCallCostBytes
} from "../../src/rpc/RpcLimits.ts"
import { maxRpcMessageBytes } from "../../src/rpc/RpcWire.ts"
import { codeOf, constantsOf, numberOf, readText, rowsOf, section, sourcesUnder, valueOf } from "./Pages.ts"

const page = readText("docs/protocol.md")
const named: Readonly<Record<string, number | bigint>> = {
  ...constants,
  callBudgetBytes,
  defaultCallDeadlineMs,
  maxConcurrentCalls,
  maxPendingCallBytes,
  minCallCostBytes,
  maxRpcMessageBytes,
  maxMsgpackDepth,
  maxMsgpackElements
}

/** `readyRecord` and `READY_RECORD` are one name. */
const plain = (name: string): string => name.replaceAll(/[_\s]/g, "").toLowerCase()
const sorted = (values: Iterable<readonly [string, number]>) => [...values].toSorted(([, a], [, b]) => a - b)
const numbersOf = (table: Readonly<Record<string, number>>) =>
  sorted(Object.entries(table).map(([name, number]) => [plain(name), number]))

describe("docs/protocol.md", () => {
  it("names every constant of the protocol, with its value", () => {
    const written = constantsOf(page)
    for (const [name, value] of written) {
      const constant = named[name]
      if (constant === undefined) assert.fail(`there is no constant ${name}`)
      assert.strictEqual(numberOf(value), valueOf(name, constant), `${name}: "${value}"`)
    }
    const missing = Object.keys(constants).filter(name => !written.some(([other]) => other === name))
    assert.deepStrictEqual(missing, [])
  })

  it("numbers the handshake messages and modes as the code does", () => {
    const rows = rowsOf(section(page, "2.3 Messages")).filter(row => row["message"] !== undefined)
    assert.deepStrictEqual(
      sorted(rows.map(row => [plain(row["message"] ?? ""), Number(row["type"])] as const)),
      numbersOf(messageTypes)
    )
    for (const [name, number] of Object.entries(modes)) assert.include(page, `${number} ${name}`)
  })

  it("numbers record types, flags and stream classes as the code does", () => {
    const rows = rowsOf(section(page, "3.2 Types")).filter(row => row["type"] !== undefined)
    assert.deepStrictEqual(
      sorted(rows.map(row => [plain(row["type"] ?? ""), Number(row["#"])] as const)),
      numbersOf(recordTypes)
    )
    const { first, last, ackRequested } = recordFlags
    assert.include(page, `${first} FIRST and ${last} LAST of a message, ${ackRequested} ACK_REQ`)
    const { admin, rpc, bulk } = streamClasses
    assert.include(page, `class ${admin} administrative, ${rpc} calls, ${bulk} bulk`)
  })

  it("numbers the codes that travel as the code does, and names those that stay", () => {
    const text = section(page, "2.5 Parameters, versions, aborts")
    const rows = rowsOf(text).filter(row => row["name"] !== undefined)
    assert.deepStrictEqual(
      sorted(rows.map(row => [codeOf(row["name"]) ?? "", Number(row["code"])] as const)),
      sorted(Object.entries(wireCodes))
    )
    for (const code of ["BAD_MAC", "BAD_DH", "TRUNCATED", "UNKNOWN_PEER", "REPLAY", codeName(0xffff)])
      assert.include(text, `\`${code}\``)
  })

  it("numbers typed messages as the code does", () => {
    const rows = rowsOf(section(page, "6. Typed messages")).filter(row => row["kind"] !== undefined)
    const written = rows.map(row => [plain(row["name"] ?? ""), Number(row["kind"])] as const)
    assert.deepStrictEqual(sorted(written), [
      ...numbersOf(adminKinds),
      ["rpccall", firstApplicationKind],
      ["rpcreply", firstApplicationKind + 1]
    ])
  })

  it("gives each session parameter the key, default and range that the code has", () => {
    const rows = rowsOf(section(page, "2.5 Parameters, versions, aborts")).filter(row => row["key"] !== undefined)
    const fields = rows.map(row => codeOf(row["field"]))
    assert.sameMembers(fields, Object.keys(defaultParameters))
    const isField = (name: string): name is keyof SessionParameters => Object.hasOwn(defaultParameters, name)
    for (const row of rows) {
      const field = codeOf(row["field"]) ?? ""
      const key = codeOf(row["key"]) ?? ""
      if (!isField(field)) assert.fail(`there is no parameter ${field}`)
      const read = (value: number) => decodeParameters(encodeMsgpack({ [key]: value }))[field]
      const least = Number(numberOf(row["least"] ?? ""))
      const greatest = Number(numberOf(row["greatest"] ?? ""))
      assert.strictEqual(defaultParameters[field], Number(numberOf(row["default"] ?? "")))
      assert.strictEqual(read(least), least)
      assert.throws(() => read(least - 1), undefined, undefined, `${key} below ${least}`)
      assert.strictEqual(read(greatest + 1), greatest)
    }
  })

  it("gives the frames the sizes that they have", () => {
    const { cookieBytes, frameHeaderBytes, gcmTagBytes, identityDocumentBytes, macBytes, peerIdBytes, rsaBytes } =
      constants
    const fill = (length: number) => new Uint8Array(length)
    const prefix = helloPrefix({
      versions: [1],
      suites: [constants.suiteX25519],
      mode: 0,
      nonce: fill(constants.nonceBytes),
      share: fill(constants.shareBytes),
      tag: fill(constants.tagBytes),
      cookie: fill(0)
    })
    const parameters = 2 + encodeParameters(defaultParameters).length
    const sizes = {
      HELLO: frameHeaderBytes + prefix.length + macBytes,
      RETRY: frameHeaderBytes + cookieBytes + macBytes,
      ACK: frameHeaderBytes + 3 + constants.nonceBytes + constants.shareBytes + macBytes,
      AUTH_I: frameHeaderBytes + 2 * peerIdBytes + 2 * rsaBytes + parameters + gcmTagBytes
    }
    for (const [name, bytes] of Object.entries(sizes)) assert.match(page, new RegExp(`${name} +${bytes} B`))
    assert.isAbove(constants.maxAuthBytes, sizes.AUTH_I + 2 + identityDocumentBytes)
  })

  it("says in its sentences what the code says", () => {
    const sentences = [
      `at most ${maxOpenInvites.toLocaleString("en")} open invitations`,
      `keeps at most ${maxAddressesPeer} of a peer`,
      `at most ${maxIntroducedPeers} peers per job`,
      `for at most ${maxRelays} connections`,
      `a message at most ${maxAddresses} addresses of one peer, a ROSTER at most ${maxRosterMembers} members`,
      `may leave ${defaultTensorLimits.maxRefs} untaken for ${defaultTensorLimits.expiryMs / 1000} s, and ${defaultTensorLimits.maxBytes / 1024 ** 3} GiB`
    ]
    const { maxAssociationsPeer, maxAssociations, maxMemoryBytesPeer } = defaultSllpLimits
    sentences.push(
      `takes ${maxAssociationsPeer} associations with a peer at once, ${maxAssociations.toLocaleString("en")} in all, and ${maxSllpAssociationsSession.toLocaleString("en")} one after another`,
      `than may need ${maxMemoryBytesPeer / 1024 ** 3} GiB`
    )
    const flowing = page.replaceAll(/\s+/g, " ")
    for (const sentence of sentences) assert.include(flowing, sentence)
    assert.strictEqual(defaultInviteTtlMs, 10 * 60_000)
    assert.strictEqual(defaultTicketTtlMs, 2 * 24 * 3_600_000)
  })

  it("has every section that the code refers to", () => {
    const headings = new Set(
      [...`${page}\n${readText("docs/protocol/sllp.md")}`.matchAll(/^#+ (\d+(?:\.\d+)?)\.? /gm)].map(
        ([, number]) => number
      )
    )
    let references = 0
    for (const path of sourcesUnder("src", "apps")) {
      for (const [, other, number] of readText(path).matchAll(/((?:RFC|SP) [\d-]+ )?§(\d+(?:\.\d+)?)/g)) {
        if (other !== undefined) continue
        references++
        assert.isTrue(headings.has(number ?? ""), `${path} refers to §${number}`)
      }
    }
    assert.isAbove(references, 30)
  })
})
