// Plain JavaScript: its types come with what bench/package.json installs, not with the repository.
import { credentials, makeGenericClientConstructor, Server, ServerCredentials } from "@grpc/grpc-js"
import { Packr } from "msgpackr"
import { promiseLoad } from "./Caller.ts"

// As our own messages are encoded, so that what is compared is everything but the encoding.
const packr = new Packr({ useRecords: false, copyBuffers: true })
const method = path => ({
  path,
  requestStream: false,
  responseStream: false,
  requestSerialize: value => packr.pack(value),
  requestDeserialize: bytes => packr.unpack(bytes),
  responseSerialize: value => packr.pack(value),
  responseDeserialize: bytes => packr.unpack(bytes)
})
const service = { echo: method("/bench.Bench/Echo"), count: method("/bench.Bench/Count") }

// By default a message of 4 MiB is refused.
const options = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 }

const serverSecurity = ({ key, cert, ca }) =>
  ServerCredentials.createSsl(Buffer.from(ca), [{ private_key: Buffer.from(key), cert_chain: Buffer.from(cert) }], true)

const clientSecurity = ({ key, cert, ca }) =>
  credentials.createSsl(Buffer.from(ca), Buffer.from(key), Buffer.from(cert), {
    checkServerIdentity: () => undefined
  })

export const grpc = tls => ({
  listen: async own => {
    const server = new Server(options)
    server.addService(service, {
      echo: ({ request }, reply) => reply(null, { bytes: request.bytes }),
      count: ({ request }, reply) => reply(null, { count: request.bytes.length })
    })
    const security = tls ? serverSecurity(own) : ServerCredentials.createInsecure()
    return new Promise((resolve, reject) =>
      server.bindAsync("127.0.0.1:0", security, (error, port) =>
        error === null ? resolve(`127.0.0.1:${port}`) : reject(error)
      )
    )
  },
  connect: async (own, endpoint) => {
    const Client = makeGenericClientConstructor(service, "Bench")
    const client = new Client(endpoint, tls ? clientSecurity(own) : credentials.createInsecure(), options)
    const call = (reply, bytes) =>
      new Promise((resolve, reject) =>
        client[reply]({ bytes }, (error, answer) =>
          error === null ? resolve(reply === "echo" ? answer.bytes : answer.count) : reject(error)
        )
      )
    return { load: options => promiseLoad(call, options) }
  }
})
