//! The files by which a running job is found: its token, a note for the command line, a list of its endpoints.

use std::path::Path;

use super::start::Run;
use crate::bootstrap::Directory;
use crate::config::{AccessKind, Settings};
use crate::error::Result;
use crate::status::{DiscoveryFile, JobFile, JobNote, TokenFile};

/// What this rank wrote. Dropping it removes the files.
#[derive(Debug, Default)]
pub(super) struct Files {
    _discovery: Option<DiscoveryFile>,
    _job: Option<JobFile>,
    _token: Option<TokenFile>,
}

impl Files {
    /// The first rank of each host writes the token and the note, rank 0 the list of endpoints.
    pub fn write(
        settings: &Settings,
        run: &Run,
        directory: &Directory,
        rank: u32,
        socket: Option<&Path>,
    ) -> Result<Self> {
        if !settings.status_enabled {
            return Ok(Self::default());
        }
        let (id, there) = (format!("{:016x}", run.id), settings.status_directory.as_deref());
        let first_here = directory.entry(rank).is_some_and(|entry| entry.place == 0);
        // Hosts may share the directory, so the name is that of the run and of this host.
        let token = || TokenFile::create(there, &format!("{id}-{rank}"), &run.token);
        let token = (first_here && settings.status_access == AccessKind::Token).then(token).transpose()?;
        let url = || directory.node(rank).map_or_else(String::new, |node| node.url());
        let note = || JobNote {
            run: id.clone(),
            rank,
            ranks: directory.ranks(),
            host: directory.host_name(rank).to_owned(),
            pid: std::process::id(),
            url: socket.map_or_else(url, |path| format!("unix:{}", path.display())),
            between: run.between.clone(),
            token_file: token.as_ref().map(|token| token.path().to_owned()),
        };
        let job = first_here.then(|| JobFile::create(there, &note())).transpose()?;
        let endpoints = (0..directory.ranks()).filter_map(|rank| {
            let address = directory.node(rank)?.address()?;
            Some((rank, directory.host_name(rank).to_owned(), address))
        });
        let list = settings.status_discovery.as_deref().filter(|_| rank == 0);
        let discovery = list.map(|path| DiscoveryFile::write(path, &id, endpoints)).transpose()?;
        Ok(Self { _discovery: discovery, _job: job, _token: token })
    }
}
