// Plain JavaScript: its types come with what bench/package.json installs, not with the repository.
import { generate } from "selfsigned"

const certificate = () =>
  generate([{ name: "commonName", value: "artifice-bench" }], { keySize: 3072, algorithm: "sha256" })

export const certificates = async () => {
  const [server, client] = await Promise.all([certificate(), certificate()])
  return {
    server: { key: server.private, cert: server.cert, ca: client.cert },
    client: { key: client.private, cert: client.cert, ca: server.cert }
  }
}
