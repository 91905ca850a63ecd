import * as RpcPeer from "../rpc/RpcPeer.ts"

/** Bounds a call to another machine in time. What a handler there dies of is a typed error of the call (`RemoteDefect`). */
export const remoteCall = RpcPeer.withDeadline
