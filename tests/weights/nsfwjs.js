// Unpack the Inception-v3 of nsfwjs (npm, MIT) and ask TensorFlow.js what it answers.
//
//     npm pack nsfwjs@4.4.0 && tar xzf nsfwjs-4.4.0.tgz && npm install @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0
//     node nsfwjs.js unpack FOLDER            model.json and weights.bin, of FOLDER/package
//     node nsfwjs.js ask FOLDER               FOLDER/images.bin (float32, N x 299 x 299 x 3 in [0, 1]) -> answers.json
const fs = require("fs");
const path = require("path");
const [, , verb, folder] = process.argv;
const at = (...names) => path.resolve(folder, ...names);

function unpack() {
  const open = (name) => {
    const found = require(at("package/dist/models/inception_v3", name));
    return found.default === undefined ? found : found.default;
  };
  const shards = [1, 2, 3, 4, 5, 6].map((i) => Buffer.from(open(`group1-shard${i}of6.min.js`), "base64"));
  fs.writeFileSync(at("model.json"), JSON.stringify(open("model.min.js")));
  fs.writeFileSync(at("weights.bin"), Buffer.concat(shards));
}

async function ask() {
  const tf = require(at("node_modules/@tensorflow/tfjs"));
  const wasm = require(at("node_modules/@tensorflow/tfjs-backend-wasm"));
  wasm.setWasmPaths(at("node_modules/@tensorflow/tfjs-backend-wasm/dist") + "/");
  await tf.setBackend("wasm");
  const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(at("model.json")));
  const bytes = fs.readFileSync(at("weights.bin"));
  const weightData = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  const model = await tf.loadLayersModel(tf.io.fromMemory({ modelTopology, weightSpecs, weightData }));
  const images = fs.readFileSync(at("images.bin"));
  const values = new Float32Array(images.buffer.slice(images.byteOffset, images.byteOffset + images.length));
  const answers = await model.predict(tf.tensor(values, [values.length / (299 * 299 * 3), 299, 299, 3])).array();
  fs.writeFileSync(at("answers.json"), JSON.stringify(answers));
}

({ unpack, ask })[verb]();
