import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"

/** Nobody keeps that many readings. */
export class TooMany extends Schema.TaggedError<TooMany>()("TooMany", { limit: Schema.Int }) {}

/** What a weather station answers. Temperatures are in degrees Celsius. */
export const Station = RpcGroup.make(
  /** The last readings, oldest first. */
  Rpc.make("Readings", { payload: { count: Schema.Int }, success: Schema.Number, error: TooMany, stream: true }),
  /** Shows every reading above a limit on the caller's own display; gives their number. */
  Rpc.make("Alarm", { payload: { above: Schema.Number }, success: Schema.Int })
)

/** What someone who calls a station answers in turn. */
export const Display = RpcGroup.make(Rpc.make("Show", { payload: { text: Schema.String }, success: Schema.Boolean }))
