// A receiver on Node's own HTTP server: answers with what it saw.

import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

const server = createServer(async (request, response) => {
  const digest = createHash('sha256')
  for await (const chunk of request) digest.update(chunk)
  const seen = {
    // What handlers look at: names in lower case, repeats joined.
    headers: request.headers,
    // Every value of every name.
    distinct: request.headersDistinct,
    sha256: digest.digest('hex'),
  }
  response.setHeader('Content-Type', 'application/json')
  response.end(JSON.stringify(seen))
})

server.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`))
