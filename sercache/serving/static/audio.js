// Recordings on their way to the server, which decodes wav, flac, ogg, opus, mp3 and aiff. What else the browser
// can decode (its own recordings in webm or mp4 among it) becomes a 16-bit wav file here.

const RATE_HZ = 16000;
const SIGNATURES = ["RIFF", "RIFX", "fLaC", "OggS", "FORM", "ID3"];

/** Return the blob to send for a recording: itself, or a wav file with what is heard in it. */
export async function asSendable(blob) {
  if (await isKnown(blob)) return blob;
  let decoded;
  try {
    decoded = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(await blob.arrayBuffer());
  } catch {
    return blob; // the server says what is wrong with it
  }
  return asWav(decoded);
}

async function isKnown(blob) {
  const head = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  const text = String.fromCharCode(...head);
  const isMp3 = head[0] === 0xff && (head[1] & 0xe0) === 0xe0;
  return isMp3 || SIGNATURES.some((signature) => text.startsWith(signature));
}

/** Return an AudioBuffer as a mono wav file, channels averaged. */
export function asWav(decoded) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  const view = new DataView(new ArrayBuffer(44 + 2 * decoded.length));
  const write = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * decoded.length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, decoded.sampleRate, true);
  view.setUint32(28, 2 * decoded.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * decoded.length, true);
  for (let index = 0; index < decoded.length; index += 1) {
    let sum = 0;
    for (const channel of channels) sum += channel[index];
    const sample = Math.max(-1, Math.min(1, sum / channels.length));
    view.setInt16(44 + 2 * index, Math.round(sample * 32767), true);
  }
  return new Blob([view], { type: "audio/wav" });
}

/** Whether this page may use the microphone: browsers allow it on localhost and over https. */
export const canRecord = Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

/** Start to record; `stop()` of what comes back gives the recording, `cancel()` drops it. */
export async function startRecording() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve));
  recorder.start();
  return {
    async stop() {
      if (recorder.state !== "inactive") recorder.stop();
      await stopped;
      for (const track of stream.getTracks()) track.stop();
      return new Blob(parts, { type: recorder.mimeType });
    },
  };
}
