//! Takes the terminal as netdiag's full screen does, writes on it, and panics on another thread.

use std::{
    io::{self, Write as _},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use netdiag::run::full_screen::{self, FullScreen};

fn main() -> Result<()> {
    let _full = FullScreen::enter()?;
    full_screen::writing(|| {
        io::stdout().write_all(b"half a scr")?;
        io::stdout().flush()
    })?;
    thread::sleep(Duration::from_secs(1));
    let draws = thread::spawn(|| -> Result<()> {
        full_screen::writing(|| panic!("as it is drawn"))?;
        Ok(())
    });
    draws.join().map_err(|_| anyhow!("the thread that draws broke down"))?
}
