import { Schema } from "effect"

/** An option has a value that is not allowed, or does not exist. */
export class JobOptionError extends Schema.TaggedError<JobOptionError>()("JobOptionError", {
  /** Where the option is, for example `optimizer.learningRate`. */
  path: Schema.String,
  /** What was given, as JSON where that is possible. */
  given: Schema.String,
  /** What is allowed. */
  allowed: Schema.String
}) {
  override get message(): string {
    return `${this.path} is ${this.given}, but must be ${this.allowed}`
  }
}

/** One option: its schema, its default, and the words in which both are explained. */
export interface Option<A> {
  readonly schema: Schema.ConstraintDecoder<A>
  /** `undefined`: the option must be given. */
  readonly default: A | undefined
  /** Unit and range in words, as an error tells them. */
  readonly allowed: string
  /** Reads the text of `--set path=text`; the schema judges the outcome. */
  readonly parse: (text: string) => unknown
}

/** The options of one thing, by name. */
export type Options = Readonly<Record<string, Option<string | number | boolean>>>

/** The values that `Fields` decode to. */
export type OptionValues<Fields extends Options> = {
  readonly [Name in keyof Fields]: Fields[Name] extends Option<infer A> ? A : never
}

const parseNumber = (text: string): unknown => (text.trim() === "" ? text : Number(text))
const parseBoolean = (text: string): unknown => (text === "true" ? true : text === "false" ? false : text)

/** An integer from `minimum` to `maximum`, counted in `unit`. */
export const integerOption = (range: {
  readonly minimum: number
  readonly maximum: number
  readonly unit: string
  readonly default?: number
}): Option<number> => ({
  schema: Schema.Int.check(Schema.isBetween({ minimum: range.minimum, maximum: range.maximum })),
  default: range.default,
  allowed: `an integer from ${range.minimum} to ${range.maximum} (${range.unit})`,
  parse: parseNumber
})

/** A finite number from `minimum` to `maximum`; `above` and `below` exclude that end. */
export const numberOption = (
  range: { readonly default?: number; readonly unit: string } & (
    { readonly minimum: number; readonly above?: never } | { readonly above: number; readonly minimum?: never }
  ) &
    ({ readonly maximum: number; readonly below?: never } | { readonly below: number; readonly maximum?: never })
): Option<number> => {
  const exclusiveMinimum = range.above !== undefined
  const exclusiveMaximum = range.below !== undefined
  const minimum = range.above ?? range.minimum ?? 0
  const maximum = range.below ?? range.maximum ?? 0
  return {
    schema: Schema.Finite.check(Schema.isBetween({ minimum, maximum, exclusiveMinimum, exclusiveMaximum })),
    default: range.default,
    allowed: `a number ${exclusiveMinimum ? "above" : "from"} ${minimum} ${exclusiveMaximum ? "and below" : "to"} ${maximum} (${range.unit})`,
    parse: parseNumber
  }
}

/** True or false. */
export const booleanOption = (options: { readonly default?: boolean }): Option<boolean> => ({
  schema: Schema.Boolean,
  default: options.default,
  allowed: "true or false",
  parse: parseBoolean
})

/** A text that `pattern` matches; `allowed` says the same in words. */
export const textOption = (options: {
  readonly pattern: RegExp
  readonly allowed: string
  readonly default?: string
}): Option<string> => ({
  schema: Schema.String.check(Schema.isPattern(options.pattern)),
  default: options.default,
  allowed: options.allowed,
  parse: text => text
})

/** A value in the words of an error message: JSON, or its type where JSON has no word for it; cut at 80 characters. */
export const describeGiven = (value: unknown): string => {
  if (value === undefined) return "missing"
  if (typeof value === "number" || typeof value === "bigint") return String(value)
  if (typeof value === "function") return "a function"
  if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) !== Object.prototype)
    return Array.isArray(value) ? "an array" : `an object of class ${value.constructor?.name ?? "unknown"}`
  let text: string
  try {
    text = JSON.stringify(value) ?? typeof value
  } catch {
    text = typeof value
  }
  return text.length > 80 ? `${text.slice(0, 79)}…` : text
}

/** True for an object whose fields can be read by name. */
export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/**
 * Checks `given` against `fields` and fills in defaults. `prefix` is the path of `given` itself (empty for the root);
 * names in `others` are left to the caller.
 * @throws JobOptionError for the first field that is missing, unknown or not allowed
 */
export const readOptions = <const Fields extends Options>(
  fields: Fields,
  given: Readonly<Record<string, unknown>>,
  { prefix = "", others = [] }: { readonly prefix?: string; readonly others?: ReadonlyArray<string> } = {}
): OptionValues<Fields> => {
  const at = (name: string): string => (prefix === "" ? name : `${prefix}.${name}`)
  const known = [...Object.keys(fields), ...others]
  for (const name of Object.keys(given))
    if (!known.includes(name))
      throw new JobOptionError({
        path: at(name),
        given: describeGiven(given[name]),
        allowed: `one of the known options: ${known.map(at).join(", ")}`
      })
  const values: Record<string, unknown> = {}
  for (const [name, field] of Object.entries(fields)) {
    const value = given[name] === undefined ? field.default : given[name]
    if (!Schema.is(field.schema)(value))
      throw new JobOptionError({ path: at(name), given: describeGiven(value), allowed: field.allowed })
    values[name] = value
  }
  // The loop above has put a value that its schema accepts under every name of Fields.
  return values as OptionValues<Fields>
}
