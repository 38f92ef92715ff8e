//! `lunasa demo`: how a simulation embeds Lunasa, by the heat equation in a cube.
//!
//! Rank 0 reads the problem and the initial field; every rank fetches its block, exchanges faces with its neighbours in
//! each step, and offers its block again at the end; rank 0 holds the field against what it must be.

mod blocks;
mod check;
mod comm;
mod error;
mod exchange;
mod field;
mod gauge;
mod grid;
mod heat;
mod hold;
mod picture;
mod problem;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lunasa::Lunasa;
use mpi::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use serde::{Deserialize, Serialize};

use self::check::Verdict;
use self::error::{Error, Result};
use self::exchange::Exchange;
use self::field::Field;
use self::gauge::Gauge;
use self::grid::{Grid, Shape};
use self::heat::{Block, Scheme};
use self::problem::{Mode, Problem};
use self::report::Row;
use crate::settings;

/// What `lunasa demo` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The problem
    #[arg(long, value_name = "FILE", default_value = "configs/demo.toml")]
    config: PathBuf,
    /// The initial field instead of the problem's: a NumPy array of three axes, float64 or float32
    #[arg(long, value_name = "FILE.npy")]
    field: Option<PathBuf>,
    /// Steps to take instead of the problem's
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// How neighbours get each other's faces, instead of the problem's way
    #[arg(long, value_enum)]
    exchange: Option<Mode>,
    /// Where final.npy and slice.png go
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    output: PathBuf,
    /// Keep every rank's pages up at the end, until Ctrl-C or SIGTERM
    #[arg(long)]
    hold: bool,
    /// A key of Lunasa's configuration and its value, as TOML, such as lunasa.routes='["self","mpi"]'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Only write the sine field as a .npy file
    #[arg(long, value_name = "FILE.npy", hide = true)]
    write_sine: Option<PathBuf>,
    /// Inner points along each axis of the sine field
    #[arg(long, value_name = "N", hide = true, default_value_t = 39, requires = "write_sine",
          value_parser = clap::value_parser!(u16).range(1..=2048))]
    size: u16,
}

/// What every rank must know before the run.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    problem: Problem,
    shape: Shape,
}

/// What rank 0 says in the last line.
struct Summary {
    verdict: Verdict,
    cells_per_s: f64,
}

/// Runs the demo. Collective; each rank of the job calls it.
pub fn run(options: &Options) -> ExitCode {
    if let Some(file) = &options.write_sine {
        let shape = [usize::from(options.size); 3];
        return match (Field { shape, values: heat::sine(shape) }).write(file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Multiple) else {
        eprintln!("demo: MPI is initialised already");
        return ExitCode::FAILURE;
    };
    let world = universe.world();
    // Until Lunasa runs, every rank comes to the same end: all start, or all say no.
    let (lunasa, plan, scheme, field) = match start(&world, options) {
        Ok(started) => started,
        Err(error) if world.rank() == 0 => return failed(&error),
        Err(_) => return ExitCode::FAILURE,
    };
    // From here on the others cannot know that a rank failed: it ends the job.
    match simulate(&world, lunasa, &plan, &scheme, field, options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => abort(&world, &error),
    }
}

fn failed(error: &Error) -> ExitCode {
    println!("demo: FAILED {error}");
    ExitCode::FAILURE
}

fn abort(world: &SimpleCommunicator, error: &Error) -> ! {
    println!("demo: FAILED rank {}: {error}", world.rank());
    world.abort(1)
}

/// Agrees on the plan and starts Lunasa. Rank 0 also gets the initial field.
fn start(world: &SimpleCommunicator, options: &Options) -> Result<(Lunasa, Plan, Scheme, Option<Field>)> {
    let mut field = None;
    let mut text = String::new();
    if world.rank() == 0 {
        let plan = plan(options).map(|(plan, read)| {
            field = Some(read);
            plan
        });
        // As TOML, which keeps every bit of a number.
        text = toml::to_string(&plan.map_err(|e| e.to_string())).map_err(|e| Error::Problem(e.to_string()))?;
    }
    let plan: Result<Plan, String> =
        toml::from_str(&comm::from_root(world, &text)).map_err(|e| Error::Problem(e.to_string()))?;
    let plan = plan.map_err(Error::Plan)?;
    let scheme = Scheme::new(plan.shape, plan.problem.diffusivity, plan.problem.courant)?;
    let lunasa = Lunasa::start(world, settings::config(&options.settings)?)?;
    Ok((lunasa, plan, scheme, field))
}

/// What the options and the files they name say.
fn plan(options: &Options) -> Result<(Plan, Field)> {
    let mut problem = Problem::read(&options.config)?;
    if let Some(file) = &options.field {
        problem.field.clone_from(file);
    }
    problem.steps = options.steps.unwrap_or(problem.steps);
    problem.exchange = options.exchange.unwrap_or(problem.exchange);
    let field = Field::read(&problem.field)?;
    std::fs::create_dir_all(&options.output)
        .map_err(|e| Error::File(format!("--output {}: cannot be made: {e}", options.output.display())))?;
    Ok((Plan { problem, shape: field.shape }, field))
}

/// The whole run, from the blocks' start to Lunasa's end. Whether the result is right, the same on every rank.
fn simulate(
    world: &SimpleCommunicator,
    lunasa: Lunasa,
    plan: &Plan,
    scheme: &Scheme,
    initial: Option<Field>,
    options: &Options,
) -> Result<bool> {
    let (problem, shape) = (&plan.problem, plan.shape);
    let grid = Grid::new(shape, world.size() as usize);
    let first = world.rank() == 0;
    for (rank, url) in comm::to_root(world, &lunasa.url()).iter().enumerate() {
        println!("rank {rank}: {}", if url.is_empty() { "no page: lunasa.status.enabled is false" } else { url });
    }

    let place = grid.place(world.rank() as usize);
    let mut block = {
        let cells = blocks::scatter(world, &lunasa, &grid, initial.as_ref())?;
        Block::new(place.size, cells.data()?)
    };
    let mut exchange = Exchange::new(world, &lunasa, &grid, problem.exchange)?;
    let gauge = Gauge::register(&lunasa, problem.steps)?;
    comm::meet(world, &lunasa);
    let began = Instant::now();
    if let Err(error) = advance(&mut exchange, &mut block, scheme, problem.steps, &gauge, first) {
        // At once, while the faces that peers may be writing are alive.
        abort(world, &error);
    }
    let seconds = began.elapsed().as_secs_f64();
    exchange.settle();
    // Faces, the block offered at the end, and on rank 0 every rank's block offered at the start.
    let served = exchange.served() + 1 + if first { u64::from(lunasa.ranks()) } else { 0 };

    let result = {
        let cells = blocks::pack(&lunasa, place, |cells| block.read_cells(cells))?;
        blocks::gather(world, &lunasa, shape, &cells)?
    };
    let rate = |cells: usize, seconds: f64| (cells as u64 * problem.steps) as f64 / seconds.max(1e-9);
    let row = Row::new(&lunasa.snapshot(), place.cells() as u64, rate(place.cells(), seconds), served);
    let rows = comm::to_root(world, &row.to_json()?);
    let slowest = comm::greatest(world, seconds);
    let mut summary = None;
    if let (Some(initial), Some(result)) = (initial, result) {
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_json(row)).collect::<Result<_>>()?;
        println!("{}", report::table(&rows));
        write_results(&result, &options.output)?;
        let verdict = check::check(problem.kind, scheme, problem.steps, &initial, &result);
        explain(&verdict, scheme, problem.steps);
        summary = Some(Summary { verdict, cells_per_s: rate(shape.iter().product(), slowest) });
    }

    if options.hold {
        if first {
            println!("demo: holding the pages up; Ctrl-C or SIGTERM ends");
        }
        hold::until_signal(world, &lunasa)?;
    }
    drop(exchange);
    let leaks = comm::sum(world, lunasa.finish()?.objects());
    let right = summary.as_ref().is_none_or(|summary| summary.verdict.ok());
    let ok = comm::sum(world, u64::from(!right)) == 0 && leaks == 0;
    if let Some(Summary { verdict, cells_per_s }) = summary {
        println!(
            "demo: {} ranks={} grid={grid} cells={} steps={} exchange={} cells_per_s={cells_per_s:.3e} max_error={:.1e} \
             leaks={leaks}",
            if ok { "ok" } else { "FAILED" },
            world.size(),
            shape.iter().product::<usize>(),
            problem.steps,
            problem.exchange.name(),
            verdict.max_error
        );
    }
    Ok(ok)
}

/// Takes all steps; `watched` by somebody on rank 0.
fn advance(
    exchange: &mut Exchange,
    block: &mut Block,
    scheme: &Scheme,
    steps: u64,
    gauge: &Gauge,
    watched: bool,
) -> Result<()> {
    let bar = report::progress(steps, watched);
    for step in 0..steps {
        exchange.step(step, block)?;
        gauge.note(step + 1, block.step(scheme));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The final field and the picture of its middle.
fn write_results(result: &Field, output: &Path) -> Result<()> {
    result.write(&output.join("final.npy"))?;
    picture::write(result, &output.join("slice.png"))?;
    println!("final field and picture: {}, {}", output.join("final.npy").display(), output.join("slice.png").display());
    Ok(())
}

/// What the result was held against.
fn explain(verdict: &Verdict, scheme: &Scheme, steps: u64) {
    let time = scheme.time_step() * steps as f64;
    match verdict.continuous_error {
        Some(error) => println!(
            "sine field at t={time:.4}: off by {:.1e} from the decay of the discrete operator, by {error:.1e} from \
             exp(-3 pi^2 alpha t)",
            verdict.max_error
        ),
        None => println!("field at t={time:.4}: off by {:.1e} from the same run on one rank", verdict.max_error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_and_a_refusal_both_survive_the_way_to_the_other_ranks() {
        let problem = Problem::parse("field = \"a.npy\"\ndiffusivity = 0.1\ncourant = 0.3\nsteps = 10\n").unwrap();
        let sent: Result<Plan, String> = Ok(Plan { problem: problem.clone(), shape: [1, 2, 3] });
        let got: Result<Plan, String> = toml::from_str(&toml::to_string(&sent).unwrap()).unwrap();
        assert_eq!(got.unwrap().problem, problem);
        let sent: Result<Plan, String> = Err("line 5:\n\"why\"".into());
        let got: Result<Plan, String> = toml::from_str(&toml::to_string(&sent).unwrap()).unwrap();
        assert_eq!(got.unwrap_err(), "line 5:\n\"why\"");
    }
}
