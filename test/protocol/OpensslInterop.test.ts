import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeEach, describe, expect, it } from "vitest"
import { concat, fromHex, toHex, u16, u8, utf8 } from "../../src/protocol/Bytes.ts"
import { openAuth, transcript } from "../../src/protocol/Handshake.ts"
import { expand, extract, sha256 } from "../../src/protocol/KeySchedule.ts"
import type { LocalIdentity, PublicIdentity } from "../../src/protocol/Identity.ts"
import { answering, dialling, flipped, real, recorded, shakeHands } from "../support/protocolHandshake.ts"
import { alice, bob, vectors } from "../support/vectors.ts"

/** Another program computes what we compute: the `openssl` command, of whatever version this machine has. */
const version = spawnSync("openssl", ["version"], { encoding: "utf8" })
const missing =
  version.status === 0 && version.stdout.startsWith("OpenSSL 3")
    ? undefined
    : "this machine has no openssl command, version 3"

const folder = mkdtempSync(join(tmpdir(), "artifice-openssl-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
beforeEach(context => {
  if (missing === undefined) return
  if (process.env["ARTIFICE_REQUIRE_ALL"] === "1") throw new Error(missing)
  context.skip(missing)
})

const file = (name: string, content: string | Uint8Array | Buffer): string => {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const openssl = (
  ...args: ReadonlyArray<string>
): { readonly ok: boolean; readonly output: Buffer; readonly errors: string } => {
  const { status, stdout, stderr } = spawnSync("openssl", [...args])
  return { ok: status === 0, output: stdout, errors: stderr.toString() }
}

const verifies = (signer: PublicIdentity, message: Uint8Array, signature: Uint8Array, salt = 32): boolean =>
  openssl(
    "dgst",
    "-sha256",
    ...["-sigopt", "rsa_padding_mode:pss", "-sigopt", `rsa_pss_saltlen:${salt}`, "-sigopt", "rsa_mgf1_md:sha256"],
    ...["-verify", file("public.pem", signer.verifyKey.export({ type: "spki", format: "pem" }))],
    ...["-signature", file("signature", signature), file("message", message)]
  ).ok

/** What §2.3 says is signed, put together here once more. */
const signed = (role: "initiator" | "responder", hash: Uint8Array, body: Uint8Array): Uint8Array =>
  concat(new Uint8Array(64).fill(0x20), utf8(`artifice v1, ${role} auth`), u8(0), sha256(hash, body))

const decrypts = (identity: LocalIdentity, ciphertext: Uint8Array): Buffer | undefined => {
  const label = Buffer.from("artifice v1 key transport").toString("hex")
  const options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256", `rsa_oaep_label:${label}`]
  const { ok, output } = openssl(
    "pkeyutl",
    "-decrypt",
    ...["-inkey", file("private.pem", identity.unwrapKey.export({ type: "pkcs8", format: "pem" }))],
    ...options.flatMap(option => ["-pkeyopt", option]),
    ...["-in", file("ciphertext", ciphertext)]
  )
  return ok ? output : undefined
}

const kdf = (mode: "EXTRACT_ONLY" | "EXPAND_ONLY", length: number, ...options: ReadonlyArray<string>): string => {
  const { ok, output, errors } = openssl(
    "kdf",
    ...["-keylen", String(length)],
    ...[`mode:${mode}`, "digest:SHA256", ...options].flatMap(option => ["-kdfopt", option]),
    "HKDF"
  )
  if (!ok) throw new Error(errors)
  return output.toString().trim().replaceAll(":", "").toLowerCase()
}

describe("the openssl command", () => {
  it("verifies the recorded signatures of both sides, and no other", () => {
    const [th2, th3] = [fromHex(vectors.th2), fromHex(vectors.th3)]
    const authI = openAuth(fromHex(vectors.k_hs_i2r), th2, recorded.authI.body, false)
    const authR = openAuth(fromHex(vectors.k_hs_r2i), th3, recorded.authR.body, false)
    expect(verifies(alice, signed("initiator", th2, authI.signed), authI.signature)).toBe(true)
    expect(verifies(bob, signed("responder", th3, authR.signed), authR.signature)).toBe(true)
    expect(verifies(alice, signed("responder", th2, authI.signed), authI.signature)).toBe(false)
    expect(verifies(bob, signed("initiator", th2, authI.signed), authI.signature)).toBe(false)
    expect(verifies(alice, signed("initiator", th2, authI.signed), flipped(authI.signature, 9))).toBe(false)
    expect(verifies(alice, signed("initiator", th2, authI.signed), authI.signature, 20)).toBe(false)
  })

  it("verifies the signatures of a fresh handshake", async () => {
    const messages: Array<readonly [PublicIdentity, Uint8Array, Uint8Array]> = []
    const crypto = {
      ...real,
      sign: async (identity: LocalIdentity, message: Uint8Array) => {
        const signature = await real.sign(identity, message)
        messages.push([identity, message, signature])
        return signature
      }
    }
    const { frames } = await shakeHands(dialling({ crypto }), answering({ crypto }))
    expect(messages.map(([{ peerId }]) => peerId)).toEqual([alice.peerId, bob.peerId])
    for (const [signer, message, signature] of messages) expect(verifies(signer, message, signature)).toBe(true)
    expect(frames.length).toBe(4)
    expect(toHex(messages[0]?.[1].subarray(0, 64 + 28) ?? u8(0))).toBe(
      toHex(signed("initiator", transcript(), u8(0)).subarray(0, 92))
    )
  })

  it("opens what we wrap, and what was recorded, and nothing that was changed", () => {
    const secret = real.randomBytes(32)
    const wrapped = real.wrap(bob, secret)
    expect(wrapped.length).toBe(384)
    expect(decrypts(bob, wrapped)?.equals(secret)).toBe(true)
    const authI = openAuth(fromHex(vectors.k_hs_i2r), fromHex(vectors.th2), recorded.authI.body, false)
    expect(decrypts(bob, authI.auth.wrapped)?.toString("hex")).toBe(vectors.r_I)
    expect(decrypts(alice, wrapped)).toBeUndefined()
    expect(decrypts(bob, flipped(wrapped, 700))?.equals(secret) ?? false).toBe(false)
  })

  it("wraps what we open", async () => {
    const secret = real.randomBytes(32)
    const label = Buffer.from("artifice v1 key transport").toString("hex")
    const wrap = (label: string) =>
      openssl(
        "pkeyutl",
        "-encrypt",
        "-pubin",
        ...["-inkey", file("wrap.pem", bob.wrapKey.export({ type: "spki", format: "pem" }))],
        ...["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256", `rsa_oaep_label:${label}`].flatMap(
          option => ["-pkeyopt", option]
        ),
        ...["-in", file("secret", secret)]
      ).output
    expect(toHex((await real.unwrap(bob, wrap(label))) ?? u8(0))).toBe(toHex(secret))
    expect(await real.unwrap(bob, wrap("00"))).toBeUndefined()
  })

  it("recomputes Extract and Expand of the key schedule", () => {
    const pairKey = vectors.pair_key
    const salt = Buffer.from("artifice v1 pair").toString("hex")
    const prk = kdf("EXTRACT_ONLY", 32, `hexkey:${pairKey}`, `hexsalt:${salt}`)
    expect([prk, toHex(extract(utf8("artifice v1 pair"), fromHex(pairKey)))]).toEqual([
      vectors.prk_pair,
      vectors.prk_pair
    ])
    const info = (label: string, context: Uint8Array, length: number) => {
      const name = utf8(`artf1 ${label}`)
      return toHex(concat(u16(length), u8(name.length), name, u8(context.length), context))
    }
    const context = concat(alice.id, bob.id)
    for (const label of ["tag", "mac1", "retry", "abort", "psk"])
      expect(kdf("EXPAND_ONLY", 32, `hexkey:${prk}`, `hexinfo:${info(label, context, 32)}`)).toBe(
        toHex(expand(fromHex(prk), label, context))
      )
    for (const length of [12, 31, 33, 100])
      expect(kdf("EXPAND_ONLY", length, `hexkey:${prk}`, `hexinfo:${info("iv", new Uint8Array(0), length)}`)).toBe(
        toHex(expand(fromHex(prk), "iv", new Uint8Array(0), length))
      )
  })
})
