//! Registration and transfers with a real (software) RDMA device, in two boots of the virtual machine: with one device, and
//! with two on the ends of a wire.

use libtest_mimic::{Arguments, Failed, Trial};
use lunasa_mpi_tests::launch::{Bed, Machine, Outcome, can_run};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::LazyLock;

/// What is shown, the line of the job that shows it (see [`Machine`]), and the words that its output must have. Cases with
/// the same line share one job.
struct Case(&'static str, &'static str, &'static [&'static str]);

/// Starts with a device that works, each with other settings.
const STARTS: &str = "ranks 2 verbs_start \
    -- lunasa.registrar=host \
    -- lunasa.registrar=verbs lunasa.verbs.device=rxe0 lunasa.verbs.port=1 lunasa.verbs.gid_index=0 \
    -- lunasa.registrar=verbs lunasa.verbs.device=rxeO \
    -- lunasa.verbs.device=rxeO \
    -- lunasa.registrar=verbs lunasa.verbs.port=3 \
    -- lunasa.registrar=verbs lunasa.verbs.gid_index=200";

/// In this order, in one boot. What breaks something mends it again, but for the last.
const CASES: &[Case] = &[
    Case("registration_on_1_rank", "ranks 1 verbs", &["ok verbs ranks=1"]),
    Case("registration_on_2_ranks", "ranks 2 verbs", &["ok verbs ranks=2"]),
    Case("registration_on_4_ranks", "ranks 4 verbs", &["ok verbs ranks=4"]),
    Case("user_objects_on_2_ranks", "ranks 2 user", &["ok user ranks=2"]),
    Case("over_4_gib_of_user_memory_in_one_region", "ranks 1 verbs_large", &["ok verbs_large"]),
    Case("the_programs_own_domain", "ranks 2 verbs_domain", &["ok verbs_domain"]),
    Case("every_size_from_and_to_every_memory", "ranks 2 verbs_sizes", &["ok verbs_sizes ranks=2"]),
    Case("objects_by_rdma_on_2_ranks", "ranks 2 routes routes=self,verbs", &["ok routes ranks=2"]),
    Case("objects_by_rdma_on_4_ranks", "ranks 4 routes routes=self,verbs", &["ok routes ranks=4"]),
    Case("user_objects_by_rdma", "ranks 2 user routes=self,verbs", &["ok user ranks=2"]),
    Case("requests_by_rdma", "ranks 2 requests routes=self,verbs", &["ok requests ranks=2"]),
    Case("threads_by_rdma", "ranks 4 threads routes=self,verbs", &["ok threads ranks=4"]),
    Case("more_requests_than_there_is_room_for", "ranks 2 verbs_many", &["ok verbs_many ranks=2"]),
    Case("stale_handles_by_rdma", "ranks 2 stale routes=self,verbs", &["ok stale ranks=2"]),
    Case("forged_handles_by_rdma", "ranks 2 forged routes=self,verbs", &["ok forged ranks=2"]),
    Case("a_forked_child_keeps_off_the_device", "ranks 2 fork routes=self,verbs", &["ok fork ranks=2"]),
    Case("the_device_refuses_keys_of_memory_that_is_gone", "ranks 2 verbs_refusals", &["ok verbs_refusals ranks=2"]),
    Case("each_peer_by_the_best_route_of_both", "ranks 3 verbs_choice", &["ok verbs_choice ranks=3"]),
    Case(
        "a_killed_rank_is_named_and_the_others_go_on",
        "OMPI_MCA_orte_enable_recovery=1 ranks 3 verbs_killed",
        &["ok verbs_killed rank=0", "ok verbs_killed rank=1"],
    ),
    Case("auto_takes_a_device_that_works", STARTS, &["<> started with verbs"]),
    Case("host_leaves_the_device_alone", STARTS, &["<lunasa.registrar=host> started with host"]),
    Case("every_choice_by_hand", STARTS, &["lunasa.verbs.port=1 lunasa.verbs.gid_index=0> started with verbs"]),
    Case(
        "a_wrong_name_names_those_there_are",
        STARTS,
        &[
            "<lunasa.registrar=verbs lunasa.verbs.device=rxeO> refused: start failed on rank 0",
            "\"rxeO\": there is no such device, did you mean \"rxe0\"? This host has rxe0",
        ],
    ),
    Case("a_wrong_name_is_passed_over_by_auto", STARTS, &["<lunasa.verbs.device=rxeO> started with host"]),
    Case(
        "a_wrong_port_is_told_how_many_there_are",
        STARTS,
        &["lunasa.verbs.port=3> refused: ", "rxe0: lunasa.verbs.port = 3: it has 1 port(s), counted from 1"],
    ),
    Case(
        "a_wrong_gid_index_names_those_there_are",
        STARTS,
        &["rxe0: lunasa.verbs.gid_index = 200: there is no such GID", "1 (RoCE v2, ::ffff:10.9.0.1)"],
    ),
    Case(
        "memlock_too_small_for_the_first_block",
        "tester 1024 ranks 1 verbs_start lunasa.registrar=verbs",
        &[
            "> refused: ",
            "rxe0 does not register 4 MiB at ",
            "Cannot allocate memory (os error 12); RLIMIT_MEMLOCK is 1 MiB, 0 B pinned already; raise the limit: \
             `ulimit -l unlimited`",
            "(hard limit 1 MiB)",
        ],
    ),
    Case(
        "memlock_too_small_for_a_page",
        "tester 0 ranks 1 verbs_start lunasa.registrar=verbs -- lunasa.registrar=auto",
        &["rxe0: a first page cannot be registered", "RLIMIT_MEMLOCK is 0 B", "auto> started with host"],
    ),
    Case(
        "beyond_memlock_what_worked_goes_on",
        "tester 16384 ranks 1 verbs_beyond",
        &[
            "before: may register 12 MiB more, limited by RLIMIT_MEMLOCK = 16 MiB; at most ",
            "refused: registration: rxe0 does not register 64.0 MiB",
            "RLIMIT_MEMLOCK is 16 MiB, 4 MiB pinned already",
        ],
    ),
    Case(
        "beyond_memlock_lazy_objects_go_on",
        "tester 16384 ranks 2 verbs_lazy",
        &["ok verbs_lazy", "rank 0: 12 eager, then ", "rank 1: 12 eager, then "],
    ),
    Case(
        "lazy_objects_will_do_without_a_first_block",
        "tester 1024 ranks 1 verbs_lazy none",
        &["ok verbs_lazy", "rank 0: 0 eager, then "],
    ),
    Case(
        "the_doctor_alone_finds_the_device",
        "LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC='4 MiB' doctor 0",
        &[
            "┆ 0     ┆ ok ┆ rxe0",
            "1: active, Ethernet",
            "1 (RoCE v2, ::ffff:10.9.0.1)",
            "verbs: ",
            "with registrar verbs, in ",
            "doctor: ok ranks=1",
            "doctor ended with 0",
        ],
    ),
    Case(
        "the_doctor_has_one_table_for_4_ranks",
        "LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC='4 MiB' doctor 4",
        &["┆ 0-3   ┆ ok ┆ rxe0", "MPI_THREAD_MULTIPLE", "doctor: ok ranks=4", "doctor ended with 0"],
    ),
    Case(
        "the_doctor_finds_what_will_fail_on_4_ranks",
        "LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC='4 MiB' tester 1024 doctor 4 --set lunasa.registrar=verbs",
        &[
            "┆ 0-3   ┆ fails ┆ RLIMIT_MEMLOCK is 1 MiB, and the start",
            "┆ 0-3   ┆ fails ┆ start failed on rank 0",
            "raise the limit: ",
            "doctor: FAILS ranks=4",
            "doctor ended with 1",
        ],
    ),
    Case(
        "the_doctor_finds_what_will_fail_alone",
        "LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC='4 MiB' tester 1024 doctor 0 --json --set lunasa.registrar=verbs",
        &[
            "\"found\": \"RLIMIT_MEMLOCK is 1 MiB, and the start registers 4 MiB\"",
            "\"ok\": false",
            "doctor ended with 1",
        ],
    ),
    Case(
        "the_pin_budget_is_shared_by_4_ranks",
        "ranks 4 pins lunasa.registrar=verbs",
        &["ok pins ranks=4", "4 MiB for the host"],
    ),
    Case(
        "no_permission_names_the_file",
        "chmod 600 /dev/infiniband/uverbs0; tester unlimited ranks 1 verbs_start lunasa.registrar=verbs -- \
         lunasa.registrar=auto; chmod 666 /dev/infiniband/uverbs0",
        &[
            "rxe0: cannot be opened: Permission denied (os error 13); give this user access to /dev/infiniband/uverbs0",
            "auto> started with host",
        ],
    ),
    Case(
        "a_port_that_is_down",
        "ip link set roce0 down; sleep 0.5; ranks 1 verbs_start lunasa.registrar=verbs -- lunasa.registrar=verbs \
         lunasa.verbs.port=1 -- lunasa.registrar=auto; ip link set roce0 up",
        &[
            "rxe0: no port is active (port 1 is down)",
            "rxe0: port 1 is down; bring its link up",
            "auto> started with host",
        ],
    ),
    Case(
        "no_device",
        "rdma link delete rxe0; ranks 2 verbs_start lunasa.registrar=verbs -- lunasa.registrar=auto",
        &["refused: start failed on rank 0", "there is no RDMA device on this host", "auto> started with host"],
    ),
];

/// What a boot with two devices on the ends of a wire is for. `wire0` and `wire1` are as they were after each.
const WIRED: &[Case] = &[
    Case("five_lost_packets_of_a_hundred_do_no_harm", "ranks 2 verbs_loss", &["ok verbs_loss ranks=2"]),
    Case(
        "on_a_cut_wire_requests_fail_in_time_and_on_a_mended_one_they_succeed",
        "ranks 3 verbs_cut",
        &["ok verbs_cut ranks=3", "cut, round 1: the device says: transport retry counter exceeded"],
    ),
];

/// By line.
type Outcomes = LazyLock<BTreeMap<String, Outcome>>;

static OUTCOMES: Outcomes = LazyLock::new(|| boot(CASES, &["--numa", "2", "--hugepages", "48"]));
static OUTCOMES_WIRED: Outcomes = LazyLock::new(|| boot(WIRED, &["--wire"]));

fn boot(cases: &[Case], options: &[&str]) -> BTreeMap<String, Outcome> {
    let mut lines: Vec<&str> = cases.iter().map(|Case(_, line, _)| *line).collect();
    lines.dedup();
    let machine = Machine::new(["--smp", "4", "--mem", "3"].iter().chain(options).copied());
    lines.into_iter().fold(machine, Machine::job).run()
}

fn trial(outcomes: &'static Outcomes, Case(name, line, words): &'static Case) -> Trial {
    Trial::test(*name, move || {
        if !can_run(Bed::Machine) {
            return Ok(());
        }
        let outcome = outcomes.get(*line).ok_or("it did not run")?.clone().expect_ok();
        println!("{name}: {:.1?}", outcome.elapsed);
        match words.iter().find(|words| !outcome.stdout.contains(**words)) {
            Some(missing) => Err(Failed::from(format!("{missing:?} was not said:\n{}", outcome.report()))),
            None => Ok(()),
        }
    })
}

fn main() -> ExitCode {
    let trials = CASES.iter().map(|case| trial(&OUTCOMES, case));
    let trials = trials.chain(WIRED.iter().map(|case| trial(&OUTCOMES_WIRED, case)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
