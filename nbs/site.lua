-- What Quarto is not asked for, or does otherwise, on its way from pages to HTML: words of pictures, formulas, links.
-- The functions stand in `return` at the end; `page` is a page of the site, which a phone may show, and no slide.
local words = pandoc.utils.stringify
local page = FORMAT:match('html') ~= nil

-- A click enlarges a picture of a page (Quarto's lightbox, which by itself takes only pictures in frames). Not one that is a
-- link already, nor the slider on the first page, nor the drawing that has two forms.
local function enlarge(img)
  local small = img.src:match('badge_[^/]*$') or img.src:match('before_after%.jpg$') or img.src:match('pipeline%.svg$')
  if page and not small and not img.classes:includes('lightbox') then img.classes:insert('lightbox') end
  return img
end

local function keep(img)
  img.classes = img.classes:filter(function(o) return o ~= 'lightbox' end)
  return img
end

-- Quarto shows the words in `![words](picture)` as a caption and gives the picture no alternative text.
-- Here they become the alternative text; a figure with an identifier keeps its caption next to it.
local function describe(img)
  if not img.attributes['fig-alt'] and #img.caption > 0 then img.attributes['fig-alt'] = words(img.caption) end
  img.attributes['alt'] = img.attributes['fig-alt']
  return enlarge(img)
end

local function unframe(fig)
  local block = fig.content[1]
  if fig.identifier ~= '' or #fig.content ~= 1 or not block.content or #block.content ~= 1 then return nil end
  local img = block.content[1]
  if img.t ~= 'Image' then return nil end
  img.attributes['fig-alt'] = img.attributes['fig-alt'] or words(fig.caption.long)
  img.attributes['alt'] = img.attributes['fig-alt']
  img.caption = {}
  return pandoc.Para({img})
end

-- `![words](pipeline.svg "name")`: the drawing of the pipeline with a chapter's parts lit. Narrow screens are given its upright form.
local function pipeline(img)
  local folder = img.src:match('^(.-)pipeline%.svg$')
  if not folder then return nil end
  img.classes:insert('nolightbox')
  local name = img.title
  img.title = ''
  if name ~= '' then img.src = img.src .. '#' .. name end
  if not page then return img end
  local source = '<source media="(max-width: 767px)" srcset="' .. folder .. 'pipeline_upright.svg#' .. name .. '">'
  return {pandoc.RawInline('html', '<picture>' .. source), img, pandoc.RawInline('html', '</picture>')}
end

-- MathML without the TeX that Pandoc adds to it: search would find, and show, each formula twice.
-- A formula that can't be turned into MathML stops the run; Pandoc alone would show its TeX.
local function formula(math)
  if not page and FORMAT ~= 'revealjs' then return nil end
  local html = pandoc.write(pandoc.Pandoc({pandoc.Plain({math})}), 'html', {html_math_method = 'mathml'})
  if not html:find('<math', 1, true) then error('Could not convert TeX math ' .. math.text) end
  return pandoc.RawInline('html', (html:gsub('<annotation.-</annotation>', '')))
end

-- nbdev links names in comments of a signature, where Markdown is shown as it stands.
local function unlink(code)
  code.text = code.text:gsub('%[(`[^`\n]+`)%]%(https?://[^%s()]*%)', '%1')
  return code
end

-- And names in the words of a link: a link in a link, which is none. The words stay.
local function inner(content)
  local out = pandoc.List()
  for i, o in ipairs(content) do
    local before, after = content[i-1], content[i+1]
    if o.t == 'Str' then
      local text = o.text
      if before and before.t == 'Code' then text = text:gsub('^%]%(https?://[^%s()]*%)', '') end
      if after and after.t == 'Code' and content[i+2] and words(content[i+2]):match('^%]%(https?://') then text = text:gsub('%[$', '') end
      if text ~= '' then out:insert(pandoc.Str(text)) end
    else out:insert(o) end
  end
  return out
end

-- nbdev links a name to where the site will be published; on the site itself the page next door is meant.
local home = 'https://lowlight-nat.github.io/lowlight_nat/'

-- What nbdev links to an anchor that it doesn't make, and where it is shown; nowhere, if empty. Filled by nbs/reference.py.
local moved = {
  -- moved:start
  ['networks/llflow.html#llflowconfig.full'] = 'networks/llflow.html#llflowconfig',
  ['networks/plain.html#plainconfig.small'] = 'networks/plain.html#plainconfig',
  ['networks/restormer.html#restormerconfig.full'] = 'networks/restormer.html#restormerconfig',
  ['part2_vocabulary/flow.html#conditionalflow.inverse'] = 'part2_vocabulary/flow.html#conditionalflow',
  ['part2_vocabulary/light.html#light.cut'] = 'part2_vocabulary/light.html#light',
  ['part2_vocabulary/light.html#light.on'] = 'part2_vocabulary/light.html#light',
  ['part3_doubt/fusion.html#featurenat.cells'] = 'part3_doubt/fusion.html#featurenat',
  ['part3_doubt/lowlight_nat.html#lowlightnat.align'] = 'part3_doubt/lowlight_nat.html#lowlightnat',
  ['part3_doubt/lowlight_nat.html#lowlightnat.doubt'] = 'part3_doubt/lowlight_nat.html#lowlightnat',
  ['part3_doubt/lowlight_nat.html#lowlightnat.forward'] = 'part3_doubt/lowlight_nat.html#lowlightnat',
  ['part3_doubt/lowlight_nat.html#lowlightnat.from_glare'] = 'part3_doubt/lowlight_nat.html#lowlightnat',
  ['part3_doubt/lowlight_nat.html#lowlightnat.refine'] = 'part3_doubt/lowlight_nat.html#lowlightnat',
  ['part4_training/callbacks.html#emaweights.catch_up'] = 'part4_training/callbacks.html#emaweights',
  ['part4_training/stages.html#stage.truth'] = 'part4_training/stages.html#stage',
  ['part5_truth/cost.html#_check'] = '',
  ['part6_using/enhancer.html#_pass'] = '',
  ['part6_using/enhancer.html#_record'] = '',
  ['part6_using/enhancer.html#enhancer.__call__'] = 'part6_using/enhancer.html#enhancer',
  ['part6_using/enhancer.html#enhancer.from_pretrained'] = 'part6_using/enhancer.html#enhancer',
  ['part6_using/widgets.html#tool.slider'] = 'part6_using/widgets.html#tool',
  ['workshop/config.html#modelconfig.base'] = 'workshop/config.html#modelconfig',
  ['workshop/config.html#modelconfig.small'] = 'workshop/config.html#modelconfig',
  ['workshop/config.html#modelconfig.tiny'] = 'workshop/config.html#modelconfig',
  ['workshop/config.html#trainplan.base'] = 'workshop/config.html#trainplan',
  ['workshop/loaders.html#lowlightdataloaders.from_folder'] = 'workshop/loaders.html#lowlightdataloaders',
  ['workshop/loaders.html#lowlightdataloaders.from_synthetic'] = 'workshop/loaders.html#lowlightdataloaders',
  ['workshop/overlap.html#_check'] = '',
  ['workshop/runs.html#run.finish'] = 'workshop/runs.html#run',
  ['workshop/steps.html#steps.patches'] = 'workshop/steps.html#steps',
  ['workshop/steps.html#steps.top_codes'] = 'workshop/steps.html#steps',
  -- moved:end
}
local letters = {tau = true}   -- in running text the threshold, not the experiment of that name

local function nearby(link)
  link.content = pandoc.Inlines(inner(link.content)):walk({Image = keep})
  if link.target:sub(1, #home) ~= home then return link end
  if #link.content == 1 and link.content[1].t == 'Code' and letters[link.content[1].text] then return link.content end
  local rest = link.target:sub(#home + 1)
  rest = moved[rest] or rest
  if rest == '' and link.target ~= home then return link.content end
  local up = quarto and quarto.project and quarto.project.offset or '.'
  link.target = up .. '/' .. rest
  return link
end

-- Words first: the upright form looks at pictures that have been taken out of their frames.
return {
  {Image = describe, Figure = unframe, Link = nearby, Math = formula, CodeBlock = unlink},
  {Image = pipeline},
}
