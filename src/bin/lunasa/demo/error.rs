//! What can go wrong in the demo, in words for the person who started it.

/// The result of a fallible step of the demo.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the demo could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The problem's file, or a flag, says something that cannot be run.
    #[error("problem: {0}")]
    Problem(String),
    /// Rank 0 refused the plan; its words.
    #[error("{0}")]
    Plan(String),
    /// A field or picture could not be read or written.
    #[error("{0}")]
    File(String),
    /// Ranks disagree about the exchange: the demo's own protocol was broken.
    #[error("exchange: {0}")]
    Exchange(String),
    /// A rank's row of the table could not be read.
    #[error("report: {0}")]
    Report(String),
    /// The pages could not be held up.
    #[error("--hold: {0}")]
    Hold(String),
    /// Lunasa itself refused.
    #[error(transparent)]
    Lunasa(#[from] lunasa::Error),
}
