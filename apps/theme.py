"""Colours, spacing and the few lines of script: shortcuts, the light and dark switch, phone layout."""

import gradio as gr

#: The cuts of a font that Gradio ships with all Latin letters; its semi-bold ones hold a few Cyrillic ones alone.
WEIGHTS = (400, 700)


def theme() -> gr.themes.Base:
    """Quiet greys, one blue, fonts that ship with Gradio."""
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        text_size="md",
        font=(gr.themes.LocalFont("Source Sans Pro", WEIGHTS), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", WEIGHTS), "ui-monospace", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="white",
        block_label_background_fill_dark="*neutral_900",
        block_shadow="none",
        block_title_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_cancel_border_color="transparent",
        button_cancel_border_color_dark="transparent",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_width="1px",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
    )


CSS = """
.gradio-container{padding:0!important}
.html-container{padding:0!important}
.main.fillable.app{max-width:1360px!important;margin:0 auto!important;padding:12px 20px 32px!important}
.wb-chips>button{flex:0 0 auto!important;width:auto!important;white-space:nowrap;min-width:max-content!important}
#top{align-items:center;gap:12px;flex-wrap:nowrap}
#brand h1{font-size:1.2rem;font-weight:600;margin:0;letter-spacing:-.01em}
#brand p{margin:0;font-size:.85rem;color:var(--body-text-color-subdued)}
#theme-switch{white-space:nowrap;min-width:max-content;flex:0 0 auto}
.wb-chips button,#top button,.wb-plain button{border:1px solid var(--border-color-primary)!important}
.wb-chips{align-items:center}
.wb-chips button.stop{background:transparent!important;color:#d13438!important}
.dark .wb-chips button.stop{color:#ff8a8a!important}
.quiet,.quiet p{color:var(--body-text-color-subdued);font-size:.875rem}
.mono textarea{font-family:var(--font-mono);font-size:.85rem}
footer{opacity:.7}
.head.head:has(>.tab-like-container):has(.has-info){position:relative;display:block}
.head:has(.has-info)>.tab-like-container{position:absolute;top:0;right:0}
.head.head>label>.has-info{display:block;padding-right:112px;min-height:28px;margin:0}
input[type=range]::-webkit-slider-thumb{border:1px solid var(--slider-color)!important}
input[type=range]::-moz-range-thumb{border:1px solid var(--slider-color)!important}
.dark input[type=range]{--neutral-200:var(--neutral-700)}
.block[style*="border-style: dashed"]{border-width:1px!important;border-color:var(--border-color-primary)!important}
[data-testid=upload-text] .or{display:block;height:0;overflow:hidden}
.block.hide-container:has(>.html-container>.prose:empty){display:none}
span[data-testid="block-info"]{font-weight:500}
.info,.block-info + div{font-size:.8rem}

.wb-empty{display:flex;flex-direction:column;gap:4px;align-items:center;justify-content:center;text-align:center;
 padding:28px 16px;border:1px dashed var(--border-color-primary);border-radius:10px;
 color:var(--body-text-color-subdued)}
.wb-empty b{color:var(--body-text-color);font-weight:600}
#stage .wb-empty{min-height:300px}
.wb-trouble{padding:12px 16px;border-radius:10px;border:1px solid #e5484d66;background:#e5484d14;
 color:var(--body-text-color);overflow-wrap:anywhere}
.wb-trouble b{color:#d13438;font-weight:600}
.dark .wb-trouble b{color:#ff8a8a}

.wb-run{display:flex;flex-direction:column;gap:10px}
.wb-run .wb-bar{height:6px;border-radius:3px;background:var(--border-color-primary);overflow:hidden}
.wb-run .wb-bar i{display:block;height:100%;background:var(--slider-color);transition:width .2s linear}
.wb-run .wb-line{display:flex;justify-content:space-between;gap:12px;font-size:.875rem;
 font-variant-numeric:tabular-nums;color:var(--body-text-color-subdued)}
.wb-run .wb-line b{color:var(--body-text-color);font-weight:500}
.wb-previews{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:8px;padding:8px}
.wb-previews img{width:100%;border-radius:8px;margin:0;aspect-ratio:1;object-fit:contain;
 background:#8881}
.wb-done{font-size:.875rem;color:var(--body-text-color-subdued);display:flex;gap:12px;flex-wrap:wrap}

.wb-item{border:1px solid var(--border-color-primary)!important;border-radius:10px!important;overflow:visible}
.wb-item-head{align-items:center;padding:8px 12px 0;gap:8px;flex-wrap:wrap}
.wb-item-head .wb-on,.wb-item-head>:first-child{flex:1 1 150px}
.wb-item-head .wb-on span{font-weight:600}
.wb-tools{flex:0 0 auto!important;min-width:0!important;gap:4px;flex-wrap:nowrap;width:auto}
.wb-tools>button{flex:0 0 auto!important;width:auto!important;min-width:max-content!important}
.wb-item>.styler,.wb-item .styler{background:var(--block-background-fill)!important;gap:0!important}
.wb-item-head .wb-on{border:0!important;background:transparent!important;padding:4px 0!important}
.wb-body>.form{display:grid!important;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:0;border:0;
 background:transparent!important}
.wb-body>.form>*{border:0!important}
.wb-body{gap:4px!important}
.wb-tool{padding:2px 8px!important;font-size:.78rem!important;font-weight:400!important;min-width:0!important;
 border:1px solid transparent!important;background:transparent!important;box-shadow:none!important;
 color:var(--body-text-color-subdued)!important}
.wb-tool:hover:not(:disabled),.wb-tool:focus-visible{color:var(--body-text-color)!important;
 border-color:var(--border-color-primary)!important}
.wb-tool:disabled{opacity:.35}
.wb-item:has(.wb-on input:not(:checked)) .wb-body{opacity:.45}
.wb-item-line{padding:0 12px;margin:0}
.wb-card-line{font-size:.85rem;color:var(--body-text-color-subdued)}

.wb-tiles{display:flex;flex-wrap:wrap;gap:10px;margin-bottom:8px}
.wb-tile{padding:10px 14px;border:1px solid var(--border-color-primary);border-radius:10px;min-width:110px;
 background:var(--block-background-fill)}
.wb-tile b{display:block;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums}
.wb-tile span{font-size:.8rem;color:var(--body-text-color-subdued)}
.wb-panels{flex-wrap:wrap;align-items:flex-start;gap:16px}
.wb-picture{margin:0}.wb-picture img{width:100%;max-width:384px;border-radius:8px;image-rendering:auto}
.wb-picture figcaption{font-size:.85rem;color:var(--body-text-color-subdued)}
.wb-facts{display:grid;grid-template-columns:max-content 1fr;gap:4px 14px;font-size:.875rem;overflow-wrap:anywhere}
.wb-facts dt{color:var(--body-text-color-subdued)}.wb-facts dd{margin:0}
.wb-chips{gap:6px;flex-wrap:wrap}
.wb-chips button{font-weight:400!important;font-size:.82rem!important;min-width:0!important}
#prompt textarea{font-size:1.05rem}
#pictures .grid-wrap,#history .grid-wrap,#grid-cells .grid-wrap{max-height:none;min-height:0;height:auto}
#pictures .grid-container,#history .grid-container,#grid-cells .grid-container{grid-auto-rows:auto}
.dark{color-scheme:dark}
#pictures .preview,#grid-cells .preview{background:var(--block-background-fill)}
#compare-left label,#compare-right label{z-index:5}
.wb-report-title h3{margin:8px 0 0;font-size:1rem}
.wb-done code{font-size:.8rem;overflow-wrap:anywhere}
.gradio-container th,.gradio-container th *{word-break:normal!important;overflow-wrap:normal!important}
#pictures .grid-wrap,#history .grid-wrap,#grid-cells .grid-wrap{overflow:visible}
.gradio-container .md table{border-collapse:collapse;margin:8px 0}
.gradio-container .md :is(th,td){border:1px solid var(--border-color-primary)!important;padding:5px 10px!important;
 text-align:left!important;vertical-align:top}
.gradio-container .md tr{border-color:var(--border-color-primary)!important}
.gradio-container .selection-button{display:none!important}
#grid-cells .caption-label{max-width:calc(100% - 8px);white-space:normal!important;overflow-wrap:anywhere}
.prose h1{font-size:1.15rem}.prose h2{font-size:1rem}.prose h3{font-size:.95rem}
#compare-left img,#compare-right img,#history-picture img,#decode-picture img{width:100%;height:100%;object-fit:contain}
.gradio-container table,.gradio-container table *,.table-wrap,.table-wrap *{font-family:var(--font)!important}
:focus-visible{outline:2px solid var(--slider-color)!important;outline-offset:1px}

@media (max-width:760px){
 .gradio-container{padding:8px 8px 24px!important}
 #brand p{display:none}
 .wb-main{flex-direction:column}
 .wb-main>.wb-result{order:-1}
 .wb-main>*{width:100%!important;min-width:0!important}
 #stage .wb-empty{min-height:150px}
 .md:has(table){display:block;overflow-x:auto!important}
 .md table{min-width:620px!important}
 #history .grid-container{grid-template-columns:repeat(3,minmax(0,1fr))!important}
 #grid-cells .caption-label{font-size:.68rem;padding:1px 4px;line-height:1.2}
 .wb-tools{flex-wrap:wrap}
 #go-row{position:sticky;bottom:0;z-index:20;background:var(--body-background-fill);padding:6px 0}
 .wb-seeds>*{min-width:44%!important}
}
@media (prefers-reduced-motion:reduce){*{transition:none!important;animation:none!important}}
"""

#: Runs once in the page: shortcuts, the remembered theme, and a name for what Gradio leaves nameless.
SCRIPT = """
<script>
(() => {
  const seen = (tag, name) => [...document.querySelectorAll(`${tag}#${name}, ${tag}[id$="-${name}"]`)]
    .find(e => e.offsetParent);
  const press = name => { const at = seen('button', name);
    if (!at || at.disabled) return false; at.click(); return true; };
  const theme = localStorage.getItem('workbench.theme');
  const asked = new URLSearchParams(location.search).get('__theme');
  const dress = name => document.body && document.body.classList.toggle('dark', name === 'dark');
  if (theme && !asked) { dress(theme); document.addEventListener('DOMContentLoaded', () => dress(theme));
    setTimeout(() => dress(theme), 300); setTimeout(() => dress(theme), 1200); }
  document.documentElement.lang = document.documentElement.lang || 'en';
  document.addEventListener('keydown', event => {
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter') {
      if (press('go')) event.preventDefault();
    } else if (event.key === 'Escape') {
      press('cancel');
    } else if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
      const own = event.target.closest && event.target.closest(
        'input,textarea,select,[contenteditable=true],[role=tab],[role=slider],[role=radiogroup],#canvas,.cm-editor');
      if (own || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const way = event.key === 'ArrowLeft' ? 'previous' : 'next';
      if (press(way)) event.preventDefault();
    }
  }, true);
  document.addEventListener('click', event => {  // on a phone what a button starts is seen elsewhere on the page
    const big = innerWidth <= 760 && event.target.closest && event.target.closest('button.lg');
    const stage = big && seen('div', 'stage');
    if (stage) setTimeout(() => stage.scrollIntoView({block: 'center'}), 150);
  });
})();
</script>
"""

#: The theme button's click, in the browser alone.
SWITCH_THEME = """() => { const dark = document.body.classList.toggle('dark');
localStorage.setItem('workbench.theme', dark ? 'dark' : 'light'); }"""
