//! What leaves the process: one file per view, and one line here.

pub mod diagnose;
pub mod doctor;
pub mod dump;
pub mod events;
pub mod json;
pub mod metrics;
pub mod otlp;
mod own;
mod owner;
pub mod pcap;
pub mod report;
pub mod screen;
pub mod table;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod schema;
