import type { RpcSystem } from "./Caller.ts"

/** @grpc/grpc-js with messages in msgpack, over TLS in which both ends show a certificate, or in the clear. */
export declare const grpc: (tls: boolean) => RpcSystem
