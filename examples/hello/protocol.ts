import { Rpc, RpcGroup, Schema } from "artifice/promise"

export const Hello = RpcGroup.make(Rpc.make("Greet", { payload: { name: Schema.String }, success: Schema.String }))
