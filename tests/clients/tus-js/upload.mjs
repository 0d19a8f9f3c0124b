// Uploads a file with tus-js-client, or goes on with what an earlier run had begun; says what came of it as JSON.
import fs from "node:fs";
import { FileUrlStorage, Upload } from "tus-js-client";

const [endpoint, token, path, storage, chunkSize, retries] = process.argv.slice(2);
const story = { url: null, fileId: null, retries: 0, resumed: false, requests: [] };

const upload = new Upload(fs.createReadStream(path), {
  endpoint,
  chunkSize: Number(chunkSize) || Infinity,
  headers: { Authorization: `Bearer ${token}` },
  metadata: { filename: "Ümläut.bin", filetype: "application/octet-stream" },
  urlStorage: new FileUrlStorage(storage),
  removeFingerprintOnSuccess: true,
  retryDelays: Array(Number(retries)).fill(200),
  onShouldRetry(error, attempt, options) {
    story.retries += 1;
    const status = error.originalResponse?.getStatus() ?? 0;
    return status < 400 || status >= 500 || status === 409 || status === 423;
  },
  onAfterResponse(request, response) {
    story.requests.push(`${request.getMethod()} ${response.getStatus()}`);
    story.fileId = response.getHeader("X-File-ID") ?? story.fileId;
  },
  onSuccess() {
    story.url = upload.url;
    console.log(JSON.stringify(story));
  },
  onError(error) {
    console.error(String(error), JSON.stringify(story));
    process.exit(1);
  },
});

const [previous] = await upload.findPreviousUploads();
if (previous) {
  story.resumed = true;
  upload.resumeFromPreviousUpload(previous);
}
upload.start();
