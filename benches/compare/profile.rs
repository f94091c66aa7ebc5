//! Where the processor time of the floors and of netrec goes: samples of perf(1), each put down to what Linux was asked for.
//!
//! perf slows down what it samples, so its samples say shares only; the times are those shares of runs without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use super::measure::Phase;
use super::table::{Results, Subject, machine, milliseconds};
use super::tools::Tool;

/// Who is sampled, each phase that it knows; the last is compared with the one before.
pub(super) const TOOLS: [Tool; 3] = [Tool::Floor, Tool::Whole, Tool::Netrec];

/// What they are sampled at.
pub(super) const PHASES: [Phase; 2] = [Phase::Up, Phase::Again];

/// Samples by what they are put down to: a place in [`PARTS`], or behind it.
pub(super) type Samples = BTreeMap<usize, usize>;

/// A sample belongs to the first of these whose functions are among those it was taken in, by how their names begin.
const PARTS: [(&str, &[&str]); 18] = [
    ("packets and timers (softirq)", &["handle_softirqs", "__do_softirq"]),
    ("nftables: the transaction", &["nfnetlink_rcv_batch"]),
    ("nftables and conntrack: questions", &["nf_tables_dump", "nf_tables_get", "nfnetlink_rcv_msg", "ctnetlink_dump"]),
    ("links made, altered, removed", &["rtnl_newlink", "rtnl_setlink", "rtnl_dellink"]),
    ("addresses and routes", &["inet_rtm_", "inet6_rtm_"]),
    ("dumps of links", &["rtnl_dump_ifinfo", "rtnl_getlink"]),
    ("dumps of addresses", &["inet_dump_ifaddr", "inet6_dump_"]),
    ("dumps of routes", &["inet_dump_fib"]),
    ("dumps of rules of routing", &["fib_nl_dumprule"]),
    ("dumps of sockets", &["inet_diag_dump", "__inet_diag_dump"]),
    ("namespaces made", &["copy_net_ns"]),
    ("namespaces entered, named, held", &["__do_sys_setns", "path_mount", "ns_get_path", "path_umount"]),
    ("settings", &["proc_sys_", "proc_reg_"]),
    ("the process: start, end, memory", &["__x64_sys_exec", "do_exit", "asm_exc_page_fault", "do_mmap", "__vm_munmap"]),
    ("sockets opened and closed", &["__sys_socket", "__sock_release", "__sys_bind", "__sys_setsockopt"]),
    ("messages to and fro", &["__sys_send", "__sys_recv", "___sys_send", "___sys_recv"]),
    ("files", &["do_sys_open", "ksys_", "__x64_sys_close", "vfs_", "do_readlink", "iterate_dir", "__do_sys_newf"]),
    ("other system calls", &["do_syscall_64"]),
];

/// Titles of what is in none of them.
const REST: [&str; 2] = ["interrupts", "outside of the kernel"];

/// What is less than this share of each column is not told by itself.
const SMALL: f64 = 0.015;

/// Samples of each phase, in namespaces that are ready.
pub(super) fn inside(tool: Tool, size: usize) -> BTreeMap<Phase, Samples> {
    const FILE: &str = "/run/bench/perf.data";
    let sampled = |phase| {
        let command = tool.command(phase, size)?;
        let status = Command::new("perf")
            .args(["record", "--quiet", "--freq=10000", "--event=cpu-clock", "-g", "--output", FILE, "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "perf(1) samples what it is given");
        let script = Command::new("perf").args(["script", "--fields=ip,sym", "--input", FILE]).output();
        let samples = count(&String::from_utf8_lossy(&script.expect("perf(1) tells samples").stdout));
        super::measure::settle();
        Some((phase, samples))
    };
    PHASES.into_iter().filter_map(sampled).collect()
}

/// Stacks are set apart by empty lines; the innermost function comes first.
fn count(script: &str) -> Samples {
    let mut samples = Samples::new();
    for stack in script.split("\n\n").map(str::trim).filter(|stack| !stack.is_empty()) {
        *samples.entry(part(stack)).or_default() += 1;
    }
    samples
}

fn part(stack: &str) -> usize {
    let functions = || stack.lines().filter_map(|line| line.split_ascii_whitespace().nth(1));
    let among = |names: &[&str]| functions().any(|function| names.iter().any(|name| function.starts_with(name)));
    // Addresses of the kernel are in the upper half.
    let address = stack.split_ascii_whitespace().next().unwrap_or_default();
    if address.len() < 16 || !address.starts_with("ffff") {
        return PARTS.len() + 1;
    }
    PARTS.iter().position(|(_, names)| among(names)).unwrap_or(PARTS.len())
}

/// A table of all for a phase, and what the last takes more than the one before.
pub(super) fn text(results: &Results, samples: &BTreeMap<(Tool, usize, Phase), Samples>) -> String {
    let mut text = machine();
    let mut sizes: Vec<usize> = samples.keys().map(|(_, size, _)| *size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for (size, phase) in sizes.iter().flat_map(|size| PHASES.map(|phase| (*size, phase))) {
        let of = |tool: Tool| {
            let samples = samples.get(&(tool, size, phase))?;
            let cpu = results.median(&Subject { tool, size }, phase, |figures| figures.cpu)?;
            let each = cpu / samples.values().sum::<usize>() as f64;
            let times = |part: usize| samples.get(&part).map_or(0.0, |count| *count as f64 * each);
            Some((tool.name(), std::iter::once(cpu).chain((0..PARTS.len() + REST.len()).map(times)).collect()))
        };
        let columns: Vec<(&str, Vec<f64>)> = TOOLS.into_iter().filter_map(of).collect();
        let [.., (_, before), (_, last)] = &columns[..] else { continue };
        let names = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ");
        let line = " ---: |".repeat(columns.len() + 1);
        let _ = write!(
            text,
            "**{}, {size} containers: processor time**\n\n| | {names} | more |\n| --- |{line}\n",
            phase.title()
        );
        let titles: Vec<&str> =
            std::iter::once("all").chain(PARTS.iter().map(|(title, _)| *title)).chain(REST).collect();
        let is_small = |row: &usize| columns.iter().all(|(_, times)| times[*row] < SMALL * times[0]);
        let (small, told): (Vec<usize>, Vec<usize>) = (0..titles.len()).partition(is_small);
        // What the last takes more than the one before comes behind.
        let times = |rows: &[usize]| {
            let all = columns.iter().map(|(_, times)| rows.iter().map(|row| times[*row]).sum());
            all.chain([rows.iter().map(|row| last[*row] - before[*row]).sum()]).collect::<Vec<f64>>()
        };
        let mut rows: Vec<_> = told.iter().map(|row| (titles[*row], times(&[*row]))).collect();
        rows[1..].sort_by(|(_, one), (_, other)| other[columns.len()].total_cmp(&one[columns.len()]));
        rows.push(("the rest", times(&small)));
        for (title, times) in rows {
            let _ = write!(text, "| {title} |");
            for time in times {
                let _ = write!(text, " {} |", milliseconds(time));
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}
