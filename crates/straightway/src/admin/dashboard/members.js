// The members of the cluster: who leads, how far everybody is, and what can be done about it. Asked for every second
// while the page is looked at; rows are changed in place, so that a button keeps the focus.
const PERIOD_MS = 1000;
const $ = (id) => document.getElementById(id);

const millis = (us) => (us === null || us === undefined ? "–" : us >= 1000 ? `${(us / 1000).toFixed(1)} ms` : `${us} µs`);
const number = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));

export class Members {
  // `ask(path, method, body)` speaks to the node, with the token if there is one.
  constructor(ask) {
    this.ask = ask;
    this.status = null;
    this.rows = new Map(); // by member: the row and its cells
    this.timer = null;
    this.run = 0;
    $("ticket").onclick = () => this.ticket();
  }

  // Begins to ask, or goes on. A node that is in no cluster now will not be in one until it is started again.
  start() {
    clearTimeout(this.timer);
    this.run += 1;
    this.turn(this.run);
  }

  alone() {
    return !this.status?.members.length;
  }

  async turn(run) {
    try {
      if (!document.hidden || !this.status) this.show(await this.ask("/api/cluster"));
    } catch {
      // The feed's state says that the node is gone.
    }
    if (run === this.run && !(this.status && this.alone())) this.timer = setTimeout(() => this.turn(run), PERIOD_MS);
  }

  show(status) {
    this.status = status;
    const { members, leader, node } = status;
    $("cluster").hidden = members.length === 0;
    if (members.length === 0) return;
    const leads = members.find((member) => member.id === leader);
    $("cluster-leader").textContent = leads ? `${leads.name} (${leader})` : "nobody";
    $("cluster-leader").dataset.state = leads ? "good" : "bad";
    $("cluster-term").textContent = number(status.term);
    $("cluster-index").textContent = `${number(status.commit_index)} · ${number(status.applied_index)}`;
    const { held, remaining_ms: left } = status.lease;
    $("cluster-lease").textContent = held ? `${(left / 1000).toFixed(1)} s` : "none";
    $("cluster-lease").dataset.state = held ? "good" : "bad";
    $("cluster-objects").textContent = number(status.objects);
    for (const [id, { row }] of this.rows) {
      if (members.some((member) => member.id === id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    for (const member of members) this.member(member, member.id === node);
  }

  member(member, isThis) {
    const { id } = member;
    if (!this.rows.has(id)) this.rows.set(id, this.row(id));
    const { cells, buttons, row } = this.rows.get(id);
    row.dataset.id = id;
    row.className = member.healthy ? "" : "away";
    const text = {
      member: `${id} ${member.name}${isThis ? " (this node)" : ""}`,
      role: member.role,
      answers: member.healthy ? "yes" : "no",
      rtt: isThis ? "–" : millis(member.rtt_us),
      lag: number(member.lag),
      at: member.http,
    };
    for (const [name, value] of Object.entries(text)) {
      // What has not changed is not read out again, and stays selected.
      if (cells[name].textContent !== value) cells[name].textContent = value;
    }
    buttons.vote.hidden = member.role !== "learner";
    buttons.lead.hidden = member.role !== "follower";
  }

  row(id) {
    const row = $("members").tBodies[0].insertRow();
    const cells = {};
    for (const name of ["member", "role", "answers", "rtt", "lag", "at"]) cells[name] = row.insertCell();
    const acts = row.insertCell();
    const button = (text, act) => {
      const element = document.createElement("button");
      element.textContent = text;
      element.setAttribute("aria-label", `${text}: member ${id}`);
      element.onclick = act;
      acts.append(element);
      return element;
    };
    const buttons = {
      vote: button("Let vote", () => this.act("add", id, null)),
      lead: button("Make leader", () => this.act("transfer", id, `Hand leadership to member ${id}?`)),
      remove: button("Remove", () => this.act("remove", id, `Remove member ${id} for good? It may come back only as a new member, with an empty data folder.`)),
    };
    return { row, cells, buttons };
  }

  async act(what, id, question) {
    if (question && !confirm(question)) return;
    $("cluster-said").textContent = "under way";
    try {
      this.show(await this.ask(`/api/cluster/${what}`, "POST", { id }));
      $("cluster-said").textContent = "done";
    } catch (error) {
      $("cluster-said").textContent = error.message;
    }
  }

  async ticket() {
    if (!confirm("Issue a ticket? Whoever has it can make a node a member, for 15 minutes.")) return;
    try {
      const { ticket, expires_ms: end } = await this.ask("/api/cluster/ticket", "POST", {});
      $("ticket-text").hidden = false;
      $("ticket-text").value = `straightway serve --join ${ticket}`;
      $("ticket-text").select();
      $("cluster-said").textContent = `good until ${new Date(end).toLocaleTimeString()}`;
    } catch (error) {
      $("cluster-said").textContent = error.message;
    }
  }
}
