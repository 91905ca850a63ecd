import type { CodecFor } from "effect/rpc/RpcSerialization"
import { binaryCodec } from "../store/BinaryCodec.ts"

/** Schemas on the wire of msgpack: bytes stay bytes. */
export const codecFor: CodecFor = binaryCodec
