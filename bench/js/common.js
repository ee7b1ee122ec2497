// Reads "CLIENTS EVENTS BURST GAP_US SIZE" and publishes; then tells the CPU time that it took.
const rss = () => Math.round(process.memoryUsage().rss / 1024);

exports.start = (clients, publish) => {
  process.stdout.write("READY\n");
  let text = "";
  process.stdin.on("data", (chunk) => {
    text += chunk;
    const end = text.indexOf("\n");
    if (end < 0) return;
    const [, events, burst, gap, size] = text.slice(0, end).split(" ").map(Number);
    text = text.slice(end + 1);
    if (events === 0) return process.stdout.write(`${clients()} ${rss()} 0 0\n`);
    const before = process.cpuUsage();
    let sent = 0;
    const step = () => {
      for (let n = 0; n < burst && sent < events; n += 1, sent += 1) {
        const payload = Buffer.alloc(size);
        payload.writeBigUInt64LE(BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)));
        publish(payload);
      }
      if (sent < events) return setTimeout(step, gap / 1000);
      // What is still queued inside counts, too.
      setTimeout(() => {
        const { user, system } = process.cpuUsage(before);
        process.stdout.write(`${clients()} ${rss()} ${user} ${system}\n`);
      }, 1500);
    };
    step();
  });
};
