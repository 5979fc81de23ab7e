// SPDX-License-Identifier: Apache-2.0
// What Node leans on a kernel for, each a line `ok NAME` or the error; then a service.
'use strict';
const assert = require('node:assert');
const { execFile } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { pipeline } = require('node:stream/promises');
const { promisify } = require('node:util');
const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
const zlib = require('node:zlib');

const checks = {
    async workers() {
        const ask = (from) => new Promise((resolve, reject) => {
            const worker = new Worker(__filename, { workerData: from });
            worker.on('message', resolve);
            worker.on('error', reject);
        });
        const sums = await Promise.all([0, 1, 2, 3].map((part) => ask(part * 250)));
        assert.strictEqual(sums.reduce((a, b) => a + b), 499500);
    },
    async files() {
        const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'node-'));
        const names = Array.from({ length: 200 }, (_, n) => path.join(folder, `file-${n}`));
        await Promise.all(names.map((name) => fs.promises.writeFile(name, name.repeat(50))));
        const read = await Promise.all(names.map((name) => fs.promises.readFile(name, 'utf8')));
        read.forEach((text, n) => assert.strictEqual(text, names[n].repeat(50)));
        fs.rmSync(folder, { recursive: true });
    },
    async streams() {
        const bytes = crypto.randomBytes(4 << 20);
        const file = path.join(os.tmpdir(), 'packed');
        fs.writeFileSync(`${file}.raw`, bytes);
        await pipeline(fs.createReadStream(`${file}.raw`), zlib.createGzip(), fs.createWriteStream(file));
        assert.ok(zlib.gunzipSync(fs.readFileSync(file)).equals(bytes));
    },
    async watching() {
        const file = path.join(os.tmpdir(), 'watched');
        fs.writeFileSync(file, '');
        const seen = new Promise((resolve) => {
            const watcher = fs.watch(file, () => { watcher.close(); resolve(); });
        });
        fs.appendFileSync(file, 'more');
        await seen;
    },
    async programs() {
        const { stdout } = await promisify(execFile)('sh', ['-c', 'echo $((6 * 7))']);
        assert.strictEqual(stdout, '42\n');
    },
    async keys() {
        const { publicKey, privateKey } = await promisify(crypto.generateKeyPair)('ed25519');
        const words = Buffer.from('signed');
        assert.ok(crypto.verify(null, words, publicKey, crypto.sign(null, words, privateKey)));
        const key = await promisify(crypto.scrypt)('word', 'salt', 32, { N: 1024 });
        assert.strictEqual(key.length, 32);
    },
    async timers() {
        const from = process.hrtime.bigint();
        await Promise.all(Array.from({ length: 100 }, (_, n) => new Promise((done) => setTimeout(done, n))));
        assert.ok(process.hrtime.bigint() - from >= 98_000_000n);
    },
};

function serve() {
    http.createServer((request, response) => {
        let length = 0;
        const digest = crypto.createHash('sha256');
        request.on('data', (part) => { length += part.length; digest.update(part); });
        request.on('end', () => response.end(`${length} ${digest.digest('hex')}\n`));
    }).listen(8000, '0.0.0.0', () => console.log('serving'));
    process.on('SIGTERM', () => process.exit(0));
}

async function main() {
    for (const [name, check] of Object.entries(checks)) {
        await check();
        console.log(`ok ${name}`);
    }
    serve();
}

if (isMainThread) {
    main();
} else {
    let sum = 0;
    for (let n = workerData; n < workerData + 250; n++) sum += n;
    parentPort.postMessage(sum);
}
