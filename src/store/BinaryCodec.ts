import { Schema, SchemaAST } from "effect"

/**
 * A schema's codec for msgpack: like Effect's JSON codec (Date as string, bigint as string, Map as pairs), but a `Uint8Array` stays one. As
 * base64 it would cost four times the time and a third more bytes.
 */
export const binaryCodec = <S extends Schema.Top>(
  schema: S
): Schema.Codec<S["Type"], unknown, S["DecodingServices"], S["EncodingServices"]> =>
  Schema.make(passBytes(Schema.toCodecJson(schema).ast))

const bytesAst = Schema.Uint8Array.ast
const isBytes = (ast: SchemaAST.AST): boolean => SchemaAST.isDeclaration(ast) && ast.run === bytesAst.run

// Pure and keyed by identity: it makes the same schema compile once, not once per session.
const passed = new WeakMap<SchemaAST.AST, SchemaAST.AST>()

/** The same schema with the base64 step taken out wherever it sits, on the type's side and inside every encoding. */
const passBytes = (ast: SchemaAST.AST): SchemaAST.AST => {
  const known = passed.get(ast)
  if (known !== undefined) return known
  const result = isBytes(ast)
    ? rebuild(ast, { encoding: undefined })
    : rebuild(ast, { ...inside(ast), ...encodingOf(ast) })
  passed.set(ast, result)
  return result
}

const encodingOf = (ast: SchemaAST.AST): object =>
  ast.encoding === undefined
    ? {}
    : { encoding: ast.encoding.map(({ to, transformation }) => new SchemaAST.Link(passBytes(to), transformation)) }

const inside = (ast: SchemaAST.AST): object => {
  switch (ast._tag) {
    case "Arrays":
      return { elements: ast.elements.map(passBytes), rest: ast.rest.map(passBytes) }
    case "Objects":
      return {
        propertySignatures: ast.propertySignatures.map(
          ({ name, type }) => new SchemaAST.PropertySignature(name, passBytes(type))
        ),
        indexSignatures: ast.indexSignatures.map(signature => rebuild(signature, { type: passBytes(signature.type) }))
      }
    case "Union":
      return { types: ast.types.map(passBytes) }
    case "Suspend":
      return { thunk: () => passBytes(ast.thunk()) }
    default:
      return {}
  }
}

// A node is copied as Effect itself copies them: same class, other fields. Its constructors differ for each of twenty tags.
const rebuild = <A extends object>(node: A, fields: object): A =>
  Object.keys(fields).length === 0 ? node : Object.assign(Object.create(Object.getPrototypeOf(node)), node, fields)
